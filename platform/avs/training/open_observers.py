"""The observers that a configuration asks for, each imported only then."""

from __future__ import annotations

import torch

from avs.training.config import TrainConfig
from avs.training.observers import Observer

__all__ = ["check_logging", "complete_logging", "open_observers"]


def check_logging(config: TrainConfig) -> None:
    """Raises ConfigError for what cannot be logged, before anything starts."""
    if config.logging.mlflow is not None:
        from avs.training.mlflow_log import check_mlflow

        check_mlflow()


def open_observers(config: TrainConfig) -> list[Observer]:
    """For rank 0. MLflow comes last, because it sends what the report has written.

    Raises:
        ConfigError: ``logging.mlflow`` cannot be used.
    """
    asked, observers = config.logging, list[Observer]()
    if asked.tensorboard or asked.report:  # drawn once for both
        from avs.training.overlays import Overlays

        overlays = Overlays(asked.num_pictures)
    if asked.tensorboard:
        from avs.training.tensorboard_log import TensorBoardLog

        observers.append(TensorBoardLog(overlays))
    if asked.report:
        from avs.report.run_log import RunReport

        observers.append(RunReport(overlays, num_clips=asked.report_clips))
    if asked.mlflow is not None:
        from avs.training.mlflow_log import MlflowLog

        observers.append(MlflowLog(asked.mlflow))
    return observers


def complete_logging(config: TrainConfig) -> None:
    """The report of a run with all its epochs, which may have been killed before it was written."""
    if config.logging.report:
        from avs.report.run_log import finish_report

        # This process may be on a machine without a GPU.
        device = config.scale.device if torch.cuda.is_available() else "cpu"
        finish_report(config, device=device)
