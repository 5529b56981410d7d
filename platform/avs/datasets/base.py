"""What every data set gives: a list of clips with where their pictures, sound and masks are."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from avs.datasets.synthetic import SyntheticConfig
from avs.errors import ConfigError
from avs.schema import Source

__all__ = ["ClipSource", "DataConfig", "MaskKind", "MediaSource"]


class MediaSource(enum.Enum):
    """Which of an AVSBench folder's two forms is read."""

    AUTO = "auto"
    RAW = "raw"
    PREPROCESSED = "preprocessed"


class MaskKind(enum.Enum):
    """How mask pictures are stored: foreground or not, class index, or palette colour."""

    BINARY = "binary"
    INDEX = "index"
    RGB = "rgb"


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """Where the clips are and how they are sampled.

    ``root`` is a local folder or ``s3://`` prefix. ``image_size_px`` is the side of the square
    frames that networks see. ``num_frames`` is T, at one frame a second. ``limit`` keeps the first
    clips of each split.
    """

    name: str
    root: str
    image_size_px: int
    num_frames: int
    media: MediaSource = MediaSource.AUTO
    with_waveform: bool = True
    limit: int | None = None
    synthetic: SyntheticConfig | None = None

    def __post_init__(self) -> None:
        for key in ("image_size_px", "num_frames"):
            if getattr(self, key) < 1:
                raise ConfigError(f"data.{key}={getattr(self, key)} must be at least 1.")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"data.limit={self.limit} must be at least 1, or null for all.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSource:
    """One clip to prepare.

    Either ``video`` or ``frames`` (T pictures) is set; ``audio`` is a separate sound file or None
    for the video's own. ``masks`` has one URI or None a frame. ``problem`` says why the clip cannot
    be prepared where the listing already knows it.
    """

    clip_id: str
    dataset: str
    subset: str
    split: str
    source: Source
    categories: tuple[str, ...] = ()
    video: str | None = None
    frames: tuple[str, ...] = ()
    audio: str | None = None
    masks: tuple[str | None, ...] = ()
    mask_kind: MaskKind = MaskKind.BINARY
    problem: str | None = None
