"""Training: the plain loop, its data feed, checkpoints and runs; Ray Train in ``distributed``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avs.training.checkpoint import Checkpoint, load_checkpoint, resolve_checkpoint
    from avs.training.config import TrainConfig

__all__ = ["Checkpoint", "TrainConfig", "load_checkpoint", "resolve_checkpoint"]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: processes of Ray that take a small module from
    here, and train nothing, need neither networks nor checkpoints."""
    if name == "TrainConfig":
        from avs.training.config import TrainConfig

        return TrainConfig
    if name in __all__:
        from avs.training import checkpoint

        return getattr(checkpoint, name)
    raise AttributeError(f"module 'avs.training' has no attribute {name!r}")
