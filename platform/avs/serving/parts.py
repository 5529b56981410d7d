"""What the parts of the service are called inside Serve, and shown as on the Ray dashboard."""

from __future__ import annotations

__all__ = ["APP_NAME", "DECODER", "INGRESS", "segmenter_name"]

APP_NAME = "avs"
INGRESS = "Ingress"
DECODER = "Decoder"


def segmenter_name(model: str) -> str:
    """The deployment of a served model."""
    return f"Segmenter-{model}"
