"""What a window looks like to a network, for processes that cut windows and need no network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from avs.media.logmel import Alignment

__all__ = ["ClipSpec"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSpec:
    """What a window looks like to the network: T frames of S x S, its sound, the class names."""

    num_frames: int
    image_size_px: int
    class_names: tuple[str, ...]
    audio_pad: Literal["repeat", "zero"] = "repeat"
    audio_alignment: Alignment = Alignment.AVSBENCH
