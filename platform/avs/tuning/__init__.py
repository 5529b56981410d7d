"""Tuning: search spaces over the training configuration, driven by Ray Tune."""

from avs.tuning.config import TuneConfig

__all__ = ["TuneConfig"]
