"""The ``logging`` section of ``jobs/train.py``: what a run shows of itself besides metrics.jsonl.

None of it changes what is learnt, so a run may go on with other values than it was begun with.
"""

from __future__ import annotations

from dataclasses import dataclass

from avs.errors import ConfigError
from avs.storage_remote import cut_credentials

__all__ = ["LoggingConfig"]


@dataclass(kw_only=True, slots=True)
class LoggingConfig:
    """What is logged while training, by the first worker.

    ``every_steps`` steps make one point of the step curves, with the mean over all workers.
    ``tensorboard`` writes event files to OUT/tensorboard: scalars, and at each epoch the masks of
    ``num_pictures`` validation clips, always the same, beside the true ones. ``report`` writes
    OUT/report.html, at the end of an epoch if a minute has passed, and at the end of the run. For
    that one the best checkpoint is scored on ``report_clips`` validation clips, spread evenly,
    with their own, no and another clip's sound (0: none, and so no listening test and no table of
    categories). ``mlflow`` is the address of an MLflow tracking server, or sqlite:///FILE; it gets
    the same scalars, the configuration and the report.
    """

    every_steps: int = 10
    tensorboard: bool = False
    report: bool = False
    num_pictures: int = 4
    report_clips: int = 48
    mlflow: str | None = None

    def __post_init__(self) -> None:
        if self.every_steps < 1:
            raise ConfigError(f"logging.every_steps={self.every_steps} must be at least 1.")
        for key in ("num_pictures", "report_clips"):
            if getattr(self, key) < 0:
                raise ConfigError(f"logging.{key}={getattr(self, key)} must not be negative.")
        if self.mlflow == "":
            raise ConfigError("logging.mlflow is empty: give an address, or null.")
        if self.mlflow is not None and cut_credentials(self.mlflow) != self.mlflow:
            raise ConfigError(
                f"logging.mlflow={cut_credentials(self.mlflow)} has credentials in it: give them "
                "by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
            )
