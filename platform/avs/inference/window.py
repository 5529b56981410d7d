"""What the audio network hears of one window, and the mask that the logits of one frame become.

One function each, so that all masks of a video are made in the same way, whichever window or batch
its frames fall into.

Shapes: K classes (1 = binary), h x w logits, T frames of a window.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)

from avs.media.audio import SAMPLE_RATE_HZ, clip_log_mel, from_int16, to_int16
from avs.training.checkpoint import ClipSpec

__all__ = ["frame_mask", "window_sound"]


def window_sound(samples: np.ndarray | None, clip: ClipSpec, *, input_kind: str) -> np.ndarray:
    """What the audio network hears of a window: log-mel float32 [T, 1, 96, 64] or waveform [n].

    samples: float32 mono 16 kHz, None = silence. input_kind: of the audio network.
    """
    count = clip.num_frames
    if samples is None:
        samples = np.zeros(count * SAMPLE_RATE_HZ, np.float32)
    sound = from_int16(to_int16(samples))
    if input_kind == "waveform":
        return sound
    return clip_log_mel(
        sound, num_examples=count, pad=clip.audio_pad, alignment=clip.audio_alignment
    )


def frame_mask(
    logits_Khw: torch.Tensor, *, size_px: tuple[int, int], threshold: float
) -> np.ndarray:
    """The mask of a frame, uint8 of class indices at ``size_px`` = (height, width).

    threshold: probability above which a pixel counts, in 0..1 (binary models).
    """
    large = F.interpolate(logits_Khw[None], size_px, mode="bilinear", align_corners=False)[0]
    if large.shape[0] == 1:
        mask = large[0] > math.log(threshold / (1 - threshold))
    else:
        mask = large.argmax(0)
    return mask.to(torch.uint8).numpy()
