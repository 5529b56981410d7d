"""The curves of a run on an MLflow server, a made-up one: what it gets, once, and when."""

from __future__ import annotations

import importlib.util
import sys
import types
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from small_configs import train_config

from avs.errors import ConfigError
from avs.training.config import LoggingConfig, TrainConfig
from avs.training.loop import train
from avs.training.mlflow_log import MlflowLog
from avs.training.open_observers import check_logging, open_observers
from avs.training.run import Run
from avs.training.state import Worker

ADDRESS = "http://there:5000"


class _FailedError(Exception):
    pass


@dataclass
class _Server:
    """What the parts of MLflow's client that are used do to a server."""

    down: bool = False
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    experiments: list[str] = field(default_factory=list)

    def check(self) -> None:
        if self.down:
            raise _FailedError("connection refused")


class _Client:
    def __init__(self, server: _Server) -> None:
        self._server = server

    def get_experiment_by_name(self, name: str) -> Any:
        self._server.check()
        known = self._server.experiments
        return types.SimpleNamespace(experiment_id="7") if name in known else None

    def create_experiment(self, name: str) -> str:
        self._server.experiments.append(name)
        return "7"

    def create_run(self, experiment_id: str, *, run_name: str, tags: dict[str, str]) -> Any:
        assert experiment_id == "7"
        run_id = f"run-{len(self._server.runs)}"
        self._server.runs[run_id] = {
            "name": run_name,
            "tags": tags,
            "params": {},
            "points": [],
            "files": {},
            "ended": False,
        }
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id))

    def update_run(self, run_id: str, *, status: str) -> None:
        self._server.check()
        self._server.runs[run_id]["ended"] = status != "RUNNING"

    def log_batch(self, run_id: str, *, metrics: Any = (), params: Any = ()) -> None:
        self._server.check()
        assert len(metrics) <= 1000
        assert len(params) <= 100
        self._server.runs[run_id]["points"] += metrics
        self._server.runs[run_id]["params"] |= dict(params)

    def log_text(self, run_id: str, text: str, name: str) -> None:
        self._server.check()
        self._server.runs[run_id]["files"][name] = text

    def set_terminated(self, run_id: str) -> None:
        self._server.check()
        self._server.runs[run_id]["ended"] = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> _Server:
    """A server behind a module that is named ``mlflow``."""
    found = _Server()

    def client(tracking_uri: str) -> _Client:
        if tracking_uri != ADDRESS:
            raise _FailedError("of no known kind")
        return _Client(found)

    module = types.ModuleType("mlflow")
    module.__spec__ = importlib.util.spec_from_loader("mlflow", None)
    entities = types.SimpleNamespace(
        Metric=lambda key, value, _, step: (key, value, step),
        Param=lambda key, value: (key, value),
    )
    exceptions = types.SimpleNamespace(MlflowException=_FailedError)
    vars(module).update(MlflowClient=client, entities=entities, exceptions=exceptions)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return found


def _config(prepared: Path, out: Path, **changes: Any) -> TrainConfig:
    logging = LoggingConfig(every_steps=2, mlflow=ADDRESS)
    return replace(train_config(prepared, out, **changes), logging=logging)


def _train(config: TrainConfig, **worker: Any) -> list[dict[str, Any]]:
    return train(config, Worker(observers=open_observers(config), **worker))


def test_a_run_sends_its_curves_its_configuration_and_its_files(
    prepared: Path, tmp_path: Path, server: _Server
) -> None:
    history = _train(_config(prepared, tmp_path / "my run"))
    (run,) = server.runs.values()
    assert server.experiments == ["avs"]
    assert run["name"] == "my run"
    assert run["params"]["train.learning_rate"] == "0.003"
    assert run["params"]["model.options.fusion_width"] == "16"
    assert [p[1:] for p in run["points"] if p[0] == "validation/J"] == [
        (history[0]["val_j"], 4),
        (history[1]["val_j"], 8),
    ]
    assert [p[2] for p in run["points"] if p[0] == "train/loss"] == [1, 2, 4, 5, 6, 8]
    assert len(run["files"]["metrics.jsonl"].splitlines()) == 2
    assert run["ended"]


def test_a_run_that_goes_on_continues_there_and_sends_no_step_again(
    prepared: Path, tmp_path: Path, server: _Server
) -> None:
    config = _config(prepared, tmp_path / "run")

    def stop(metrics: dict[str, Any]) -> None:
        if metrics["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(config, after_epoch=stop)
    assert not next(iter(server.runs.values()))["ended"]
    _train(config)
    (run,) = server.runs.values()
    assert [p[2] for p in run["points"] if p[0] == "train/loss"] == [1, 2, 4, 5, 6, 8]
    assert run["ended"]


def test_a_server_that_is_away_for_an_epoch_gets_it_later(
    prepared: Path, tmp_path: Path, server: _Server
) -> None:
    def after(metrics: dict[str, Any]) -> None:
        server.down = False

    config = _config(prepared, tmp_path / "run")
    observers = open_observers(config)
    start = observers[0].on_start

    def start_and_fall(seen: Any) -> None:
        start(seen)
        server.down = True

    observers[0].on_start = start_and_fall  # type: ignore[method-assign]
    train(config, Worker(observers=observers, after_epoch=after))
    progress = Run(config.out).read_progress()
    assert progress is not None
    (told,) = (message["text"] for message in progress["told"])
    assert "logging.mlflow=http://there:5000 failed (connection refused)" in told
    (run,) = server.runs.values()
    assert [p[2] for p in run["points"] if p[0] == "train/loss"] == [1, 2, 4, 5, 6, 8]


def test_a_server_that_is_away_at_the_start_is_said_by_its_address(
    prepared: Path, tmp_path: Path, server: _Server
) -> None:
    server.down = True
    with pytest.raises(ConfigError, match=rf"logging\.mlflow={ADDRESS}: connection refused"):
        _train(_config(prepared, tmp_path / "run"))


def test_an_address_that_mlflow_does_not_take_is_named(server: _Server) -> None:
    with pytest.raises(ConfigError, match=r"logging\.mlflow=ftp://x: of no known kind"):
        MlflowLog("ftp://x")


def test_a_run_goes_on_without_the_server_that_it_began_with(
    prepared: Path, tmp_path: Path, server: _Server
) -> None:
    _train(_config(prepared, tmp_path / "run", epochs=1))
    server.down = True
    assert len(_train(_config(prepared, tmp_path / "run"))) == 2


def test_without_the_package_nothing_starts_and_the_cure_is_named(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'avs\[mlflow\]'"):
        check_logging(_config(prepared, tmp_path / "run"))
    check_logging(train_config(prepared, tmp_path / "run"))
