"""What a network is given of a window. Needs no torch: videos may be cut into windows in processes
that have no network.

Shapes: W windows of T frames of S x S pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from avs.media.audio import SAMPLE_RATE_HZ, clip_log_mel, from_int16, to_int16
from avs.media.pieces import MediaWindow
from avs.training.clip_spec import ClipSpec

__all__ = ["window_arrays", "window_sound"]


def window_arrays(
    windows: Sequence[MediaWindow], clip: ClipSpec, *, input_kind: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What :meth:`avs.inference.predictor.Predictor.forward` takes: frames uint8 [W, T, S, S, 3],
    sound as ``input_kind`` of the audio network says, frame_valid bool [W, T]."""
    return (
        np.stack([w.frames for w in windows]),
        np.stack([window_sound(w.sound, clip, input_kind=input_kind) for w in windows]),
        np.stack([np.arange(clip.num_frames) < w.window.num_valid for w in windows]),
    )


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
