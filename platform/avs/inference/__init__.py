"""Inference: the Predictor, and the jobs that run it over buckets and prepared splits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avs.inference.predictor import Predictor
    from avs.inference.track import MaskTrack

__all__ = ["MaskTrack", "Predictor"]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: processes that decode or write need no torch,
    which takes seconds."""
    if name == "Predictor":
        from avs.inference.predictor import Predictor

        return Predictor
    if name == "MaskTrack":
        from avs.inference.track import MaskTrack

        return MaskTrack
    raise AttributeError(f"module 'avs.inference' has no attribute {name!r}")
