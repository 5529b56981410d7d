"""Training: the plain loop, its data feed, checkpoints and runs; Ray Train in ``distributed``."""

from avs.training.checkpoint import Checkpoint, load_checkpoint, resolve_checkpoint
from avs.training.config import TrainConfig

__all__ = ["Checkpoint", "TrainConfig", "load_checkpoint", "resolve_checkpoint"]
