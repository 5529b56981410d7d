"""The curves of a run on an MLflow tracking server, for whom ``mlflow`` is installed.

Points are sent with each checkpoint, so a run that goes on continues the same MLflow run (its id is
kept in OUT/mlflow.json) after the last point there. A server that does not answer ends nothing:
points wait for the next checkpoint. Trade-off: MLflow cannot take points back; where a run was
killed between sending and its checkpoint, the same steps are sent again.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from avs import storage
from avs.code_version import code_version
from avs.config import dump
from avs.errors import ConfigError
from avs.training.observers import Observer, SeenEpoch, SeenStart, SeenSteps, epoch_scalars

__all__ = ["MlflowLog", "check_mlflow"]

_EXPERIMENT = "avs"
_ARTIFACTS = ("config.yaml", "report.html", "metrics.jsonl", "validation.json")
# What the service takes at once, and the length of a parameter (MLflow's REST limits).
_MAX_POINTS, _MAX_PARAMS, _MAX_CHARS = 1000, 100, 6000
_MAX_REASON = 120
# A server that never answers holds the first rank, and so all of them: by MLflow's own defaults for
# up to a quarter of an hour a checkpoint. Here points wait for the next one instead.
_SHORT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


def check_mlflow() -> None:
    """Raises ConfigError where the package is missing, before anything starts."""
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError(
            "logging.mlflow needs the package mlflow, which is not installed: pip install "
            "'avs[mlflow]', or give logging.mlflow=null."
        )


class MlflowLog(Observer):
    """Sends the same scalars as TensorBoard gets, and the files of the run at its end.

    address: of the tracking server.

    Raises:
        ConfigError: mlflow is not installed, or its run cannot be begun.
    """

    def __init__(self, address: str) -> None:
        check_mlflow()
        for name, value in _SHORT.items():
            os.environ.setdefault(name, value)
        self._address = address
        self._mlflow: Any = importlib.import_module("mlflow")
        try:
            self._client: Any = self._mlflow.MlflowClient(tracking_uri=address)
        except self._mlflow.exceptions.MlflowException as error:  # an address of no kind it knows
            raise ConfigError(f"logging.mlflow={address}: {error}") from None
        self._run_id = ""
        self._out = ""
        self._points: list[Any] = []

    def on_start(self, seen: SeenStart) -> None:
        """Go on with the run that OUT/mlflow.json names, or begin one."""
        self._out = seen.out
        kept = storage.join(seen.out, "mlflow.json")
        known = storage.read_json(kept) if storage.exists(kept) else {}
        if known.get("address") == self._address:
            self._run_id = known["run_id"]
            self._try(partial(self._client.update_run, self._run_id, status="RUNNING"))
            return
        try:
            self._begin(seen)
        except self._mlflow.exceptions.MlflowException as error:
            raise ConfigError(f"logging.mlflow={self._address}: {error}") from None
        storage.write_json(kept, {"address": self._address, "run_id": self._run_id})

    def on_steps(self, seen: SeenSteps) -> None:
        """Keep the points until the next checkpoint."""
        self._add(seen.scalars, seen.step)

    def on_epoch(self, seen: SeenEpoch) -> None:
        """Keep the points until the checkpoint, which follows."""
        self._add(epoch_scalars(seen.metrics), seen.step)

    def on_save(self, step: int) -> None:  # noqa: ARG002 (of the interface)
        """Send what was kept."""
        self._try(self._send)

    def on_end(self) -> None:
        """Send the files, and say that the run has ended."""
        self._try(self._finish)

    def _begin(self, seen: SeenStart) -> None:
        client, state = self._client, seen.state
        found = client.get_experiment_by_name(_EXPERIMENT)
        experiment = client.create_experiment(_EXPERIMENT) if found is None else found.experiment_id
        name = seen.out.rstrip("/").rpartition("/")[2]
        tags = {"avs.out": seen.out, "avs.version": code_version()}
        self._run_id = client.create_run(experiment, run_name=name, tags=tags).info.run_id
        plain = {**dump(state.config), "model": dump(state.model_config)}
        params = [
            self._mlflow.entities.Param(key, str(value)[:_MAX_CHARS]) for key, value in _flat(plain)
        ]
        for first in range(0, len(params), _MAX_PARAMS):
            client.log_batch(self._run_id, params=params[first : first + _MAX_PARAMS])
        for metrics in state.history:
            self._add(epoch_scalars(metrics), metrics["epoch"] * state.num_steps)

    def _add(self, scalars: Mapping[str, float], step: int) -> None:
        now_ms = int(time.time() * 1000)
        entity = self._mlflow.entities.Metric
        self._points += [
            entity(name, value, now_ms, step)
            for name, value in scalars.items()
            if math.isfinite(value)
        ]

    def _send(self) -> None:
        while self._points:
            batch = self._points[:_MAX_POINTS]
            self._client.log_batch(self._run_id, metrics=batch)
            self._points = self._points[len(batch) :]

    def _finish(self) -> None:
        self._send()
        for name in _ARTIFACTS:
            uri = storage.join(self._out, name)
            if storage.exists(uri):
                self._client.log_text(self._run_id, storage.read_bytes(uri).decode(), name)
        self._client.set_terminated(self._run_id)

    def _try(self, call: Callable[[], Any]) -> None:
        """Whoever calls observers tells an error once, and goes on."""
        try:
            call()
        except self._mlflow.exceptions.MlflowException as error:
            reason = str(error).partition("\n")[0][:_MAX_REASON]
            raise ConnectionError(
                f"logging.mlflow={self._address} failed ({reason}); points wait for the next "
                "checkpoint, what is left at the end is in metrics.jsonl and TensorBoard alone"
            ) from error


def _flat(plain: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a configuration by dotted key."""
    if not isinstance(plain, Mapping):
        yield prefix, plain
        return
    for key, value in plain.items():
        yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
