"""Configuration of ``jobs/demo.py``: the parts of the jobs' configurations, once each."""

from __future__ import annotations

from dataclasses import dataclass

from avs.datasets import DataConfig
from avs.losses import LossConfig
from avs.models import ModelConfig
from avs.scale import ScaleConfig
from avs.serving.config import ServingConfig
from avs.training.config import InferenceConfig, LoopConfig
from avs.tuning.config import SearchConfig

__all__ = ["DemoConfig"]


@dataclass(kw_only=True, slots=True)
class DemoConfig:
    """``out`` gets every result; ``tune_epochs`` is the budget of a trial of the sweep."""

    data: DataConfig
    model: ModelConfig
    loss: LossConfig
    train: LoopConfig
    inference: InferenceConfig
    search: SearchConfig
    tune_epochs: int
    serving: ServingConfig
    scale: ScaleConfig
    shard_clips: int
    seed: int
    out: str
