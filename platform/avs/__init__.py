"""Audio-visual segmentation on Ray: pixel masks of the objects that sound in a video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avs.client import Client
    from avs.inference.predictor import Predictor

__all__ = ["Client", "Predictor", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: torch and timm take seconds."""
    if name == "Client":
        from avs.client import Client

        return Client
    if name == "Predictor":
        from avs.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'avs' has no attribute {name!r}")
