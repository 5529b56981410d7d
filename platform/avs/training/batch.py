"""A batch of clips as training, validation and scoring take it. Trade-off: what the audio network
made of the sound before travels beside the sound, so augmentations that move one must move both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avs.models.types import AudioOutput

__all__ = ["Batch", "padding_flags", "taught_flags"]


@dataclass(kw_only=True, slots=True)
class Batch:
    """B clips. frames uint8 [B, T, 3, H, W]; log_mel float32 [B, T, 1, 96, 64]; masks uint8
    [B, T, H, W]; mask_valid, frame_valid bool [B, T]; waveform int16 [B, 16000 T], None where the
    reader was not asked for it. audio_embedding float32 [B, T, D] and audio_logits float32
    [B, T, 527] are what the audio network makes of the sound, where that was computed before.
    off_screen bool [B]: the sound is not that of the picture (see :mod:`avs.training.augment`);
    None where every clip has its own."""

    clip_ids: list[str]
    categories: list[tuple[str, ...]]
    frames: Tensor
    log_mel: Tensor
    masks: Tensor
    mask_valid: Tensor
    frame_valid: Tensor
    waveform: Tensor | None = None
    audio_embedding: Tensor | None = None
    audio_logits: Tensor | None = None
    off_screen: Tensor | None = None

    @property
    def sound(self) -> Tensor:
        """What the audio network hears: the waveform where there is one, else the log-mel."""
        return self.log_mel if self.waveform is None else self.waveform

    @property
    def heard(self) -> AudioOutput | None:
        """What the audio network makes of the sound, B * T examples, where it need not run."""
        if self.audio_embedding is None:
            return None
        logits = self.audio_logits
        return AudioOutput(
            embedding=self.audio_embedding.flatten(0, 1),
            logits=None if logits is None else logits.flatten(0, 1),
        )

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on ``device``."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return Batch(
            clip_ids=self.clip_ids,
            categories=self.categories,
            frames=self.frames.to(device, non_blocking=True),
            log_mel=self.log_mel.to(device, non_blocking=True),
            masks=self.masks.to(device, non_blocking=True),
            mask_valid=self.mask_valid.to(device, non_blocking=True),
            frame_valid=self.frame_valid.to(device, non_blocking=True),
            waveform=moved(self.waveform),
            audio_embedding=moved(self.audio_embedding),
            audio_logits=moved(self.audio_logits),
            off_screen=moved(self.off_screen),
        )


def padding_flags(batch: Batch) -> Tensor | None:
    """``frame_valid`` where a batch holds padding, else None, as S4 and MS3 networks expect."""
    return None if bool(batch.frame_valid.all()) else batch.frame_valid


def taught_flags(batch: Batch) -> Tensor | None:
    """``mask_valid`` where a batch holds frames without ground truth, else None."""
    return None if bool(batch.mask_valid.all()) else batch.mask_valid
