"""Configurations of ``jobs/segment.py`` and ``jobs/evaluate.py``."""

from __future__ import annotations

from dataclasses import dataclass

from avs.errors import ConfigError
from avs.inference.outputs import OutputKind, parse_masks_per_s
from avs.metrics import Protocol
from avs.scale import ScaleConfig
from avs.training.config import PreparedConfig

__all__ = ["EvaluateConfig", "SegmentConfig"]


@dataclass(kw_only=True, slots=True)
class SegmentConfig:
    """``input`` is a video, a folder or an ``s3://`` prefix; ``out`` gets a folder a video.

    ``masks_per_s``: 1 to 120, or ``native`` for a mask of every frame. ``objects``: masks.json also
    tells all visible objects, silent ones too, and the overlay outlines the silent ones.
    ``max_failed_ratio``: share of rejected videos above which the job fails, None for no limit.
    ``watch``: go on with new and changed videos, listing the input ``watch_every_s`` after the end
    of the last, until stopped.
    """

    checkpoint: str
    input: str
    out: str
    outputs: list[OutputKind]
    threshold: float
    scale: ScaleConfig
    masks_per_s: int | str = 1
    objects: bool = False
    max_failed_ratio: float | None = None
    watch: bool = False
    watch_every_s: float = 10.0

    @property
    def mask_rate(self) -> int | None:
        """``masks_per_s`` as :meth:`avs.Predictor.segment_video` takes it."""
        return parse_masks_per_s(str(self.masks_per_s))

    def __post_init__(self) -> None:
        parse_masks_per_s(str(self.masks_per_s))
        if self.max_failed_ratio is not None and not 0 <= self.max_failed_ratio <= 1:
            value = self.max_failed_ratio
            raise ConfigError(f"max_failed_ratio={value} must be between 0 and 1, or null.")
        if not self.watch_every_s > 0:
            raise ConfigError(f"watch_every_s={self.watch_every_s} must be positive.")
        if not self.outputs:
            known = ",".join(k.value for k in OutputKind)
            raise ConfigError(f'outputs=[] writes nothing: give some of "outputs=[{known}]".')
        if self.objects and not {OutputKind.RLE_JSON, OutputKind.OVERLAY} & set(self.outputs):
            given = ",".join(k.value for k in self.outputs)
            raise ConfigError(
                "objects=true tells objects in masks.json and in the overlay: give "
                f'"outputs=[{given},rle_json]" or "outputs=[{given},overlay]", or leave it out.'
            )
        if not 0 < self.threshold < 1:
            raise ConfigError(f"threshold={self.threshold} must lie between 0 and 1.")


@dataclass(kw_only=True, slots=True)
class EvaluateConfig:
    """``protocol``: whose J and F are told first; metrics.json holds those of the other one too.

    ``batch_size``: test batch of the AVSBench protocol, in clips; its figures depend on it.
    ``num_pictures`` clips are shown in the report. ``objects``: of models that find objects, the
    report shows and metrics.json counts all that are visible, silent ones too.
    """

    checkpoint: str
    data: PreparedConfig
    split: str
    out: str
    batch_size: int
    num_pictures: int
    scale: ScaleConfig
    protocol: Protocol = Protocol.AVSBENCH
    objects: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size} must be at least 1.")
        if self.num_pictures < 0:
            raise ConfigError(f"num_pictures={self.num_pictures} must not be negative.")
