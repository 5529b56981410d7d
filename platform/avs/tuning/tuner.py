"""Trials on Ray Tune: one process a trial, and their progress without Ray's signatures.

What a sweep and a study share. Ray's own bookkeeping is thrown away: a trial is the plain training
loop in its own run folder, which knows by itself where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ray import tune

from avs import storage
from avs.errors import AvsError
from avs.scale import ScaleConfig
from avs.storage_remote import StorageError

__all__ = ["Progress", "last_line", "run_trials"]


class Progress(Protocol):
    """Who is told; ``config`` is a trial's, as its function gets it."""

    def on_result(self, config: dict[str, Any], result: dict[str, Any]) -> None:
        """A trial has reported."""

    def on_end(self, config: dict[str, Any]) -> None:
        """A trial has ended without an error, or was stopped."""

    def on_failure(self, config: dict[str, Any], error: str, *, final: bool) -> None:
        """A trial has failed; not ``final``: it is tried again."""


def run_trials(
    trial: Callable[[dict[str, Any]], None],
    *,
    name_of: Callable[[dict[str, Any]], str],
    scale: ScaleConfig,
    tune_config: tune.TuneConfig,
    bookkeeping: str,
    progress: Progress,
    param_space: dict[str, Any] | None = None,
    max_failures: int = 0,
) -> Any:
    """Run all trials, each on one worker of ``scale``; returns Ray's results.

    name_of: what Ray calls the trial of a config, letters, digits, "-", "_" and ".".
    ``bookkeeping``: a folder for Ray, removed before and afterwards.

    Raises:
        AvsError: what ``progress`` raised.
    """
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    resources = {"CPU": scale.cpus_per_worker}
    if scale.gpus_per_worker:
        resources["GPU"] = scale.gpus_per_worker
    storage.remove(bookkeeping)
    tuner = tune.Tuner(
        tune.with_resources(trial, resources),
        param_space=param_space or {},
        tune_config=replace(tune_config, trial_name_creator=lambda t: name_of(t.config)),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=bookkeeping,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=max_failures),
            callbacks=[_Callback(progress)],
        ),
    )
    try:
        return tuner.fit()
    except tune.TuneError as error:  # what a callback raised, as the text of its trace
        raise AvsError(f"{last_line(error)}; the same command goes on") from error
    finally:
        with suppress(StorageError):
            storage.remove(bookkeeping)


def last_line(error: object) -> str:
    """What an error comes down to: Ray puts the whole trace before it."""
    return next(iter(reversed(str(error).strip().splitlines())), "")


def _reason(trial: Any) -> str:
    """Why a trial failed last: from Ray's file on this machine, which it uploads only later."""
    file = trial.error_file
    return last_line(Path(file).read_text()) if file and Path(file).exists() else "unknown"


class _Callback(tune.Callback):
    """Ray's calls as those of :class:`Progress`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002 (the signatures are Ray's)
        trials: list[Any],  # noqa: ARG002
        trial: Any,
        result: dict[str, Any],
        **info: Any,  # noqa: ARG002
    ) -> None:
        # Ray counts over the life of a trial, which loses many a machine in weeks.
        trial.run_metadata.num_failures = 0
        self._progress.on_result(trial.config, result)

    def on_trial_complete(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Any],  # noqa: ARG002
        trial: Any,
        **info: Any,  # noqa: ARG002
    ) -> None:
        self._progress.on_end(trial.config)

    def on_trial_recover(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Any],  # noqa: ARG002
        trial: Any,
        **info: Any,  # noqa: ARG002
    ) -> None:
        self._progress.on_failure(trial.config, _reason(trial), final=False)

    def on_trial_error(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[Any],  # noqa: ARG002
        trial: Any,
        **info: Any,  # noqa: ARG002
    ) -> None:
        self._progress.on_failure(trial.config, _reason(trial), final=True)
