"""The log-mel front end of VGGish.

Values are computed in float64 with numpy as in the reference, so they agree with it to rounding;
torch would be faster by a few milliseconds a clip but only to 1e-4.
"""

from __future__ import annotations

import enum
import functools
import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from avs.media.resampling import SAMPLE_RATE_HZ, resample

__all__ = [
    "EXAMPLE_S",
    "SAMPLE_RATE_HZ",
    "Alignment",
    "clip_log_mel",
    "log_mel",
    "silence_log_mel",
]

EXAMPLE_S = 0.96
_WINDOW, _HOP, _FFT = 400, 160, 512
_BANDS, _COLUMNS = 64, 96
_EXAMPLE = (_COLUMNS - 1) * _HOP + _WINDOW
_MARGIN = (SAMPLE_RATE_HZ - _EXAMPLE) // 2
_LOW_HZ, _HIGH_HZ = 125.0, 7500.0
_EXAMPLES_PER_BLOCK = 64


class Alignment(enum.Enum):
    """Which sound example k of a clip holds, where frame k shows second k to k + 1.

    AVSBENCH: 0.96 k to 0.96 (k + 1) s, as in the official files, so it falls behind the picture by
    40 ms with every frame, 0.36 s at the last of ten.
    EXACT, the platform's own: the 0.96 s in the middle of second k. Not around the moment of the
    frame, which is 15/16 s into its second: that would need sound from after the clip. A last
    second of which half or more is there is filled up with silence, a shorter rest is dropped.
    """

    AVSBENCH = "avsbench"
    EXACT = "exact"


def log_mel(
    samples: NDArray[np.float32], sample_rate_hz: int = SAMPLE_RATE_HZ, *, log_offset: float = 0.01
) -> NDArray[np.float32]:
    """VGGish log-mel examples, float32 [n, 1, 96, 64], of mono float samples in [-1, 1].

    Example k covers 0.96 k to 0.96 (k + 1) s (96 columns of 10 ms, no overlap); a shorter rest is
    dropped, so the result may have no example. ``log_offset`` is added before the logarithm.
    """
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise ValueError(f"samples must be mono [n], not {list(samples.shape)}")
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"samples are {samples.dtype}: give floats in [-1, 1] (int16 / 32768)")
    if sample_rate_hz != SAMPLE_RATE_HZ:
        samples = resample(samples, sample_rate_hz)
    num_columns = max(0, 1 + (len(samples) - _WINDOW) // _HOP)
    num_examples = num_columns // _COLUMNS
    out = np.empty((num_examples, 1, _COLUMNS, _BANDS), np.float32)
    for first in range(0, num_examples, _EXAMPLES_PER_BLOCK):
        last = min(first + _EXAMPLES_PER_BLOCK, num_examples)
        start = first * _COLUMNS * _HOP
        stop = ((last * _COLUMNS) - 1) * _HOP + _WINDOW
        mel = _mel_columns(samples[start:stop].astype(np.float64))
        out[first:last, 0] = np.log(mel + log_offset).reshape(-1, _COLUMNS, _BANDS)
    return out


def _mel_columns(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    windows = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi / _WINDOW * np.arange(_WINDOW))
    columns: NDArray[np.float64] = np.abs(np.fft.rfft(windows * hann, _FFT)) @ _mel_matrix()
    return columns


@functools.cache
def _mel_matrix() -> NDArray[np.float64]:
    """Weights [257, 64]: triangles linear in mel, no area normalisation, the DC row zero."""

    def mel(hz: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1127.0 * np.log(1.0 + hz / 700.0)

    bins = mel(np.linspace(0.0, SAMPLE_RATE_HZ / 2, _FFT // 2 + 1))[:, None]
    low, high = mel(np.array([_LOW_HZ, _HIGH_HZ]))
    edges = np.linspace(low, high, _BANDS + 2)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    weights: NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling))
    weights[0] = 0.0
    return weights


def silence_log_mel(num_examples: int, log_offset: float = 0.01) -> NDArray[np.float32]:
    """Log-mel of digital silence, float32 [num_examples, 1, 96, 64]: log(log_offset)."""
    return np.full((num_examples, 1, _COLUMNS, _BANDS), math.log(log_offset), np.float32)


def clip_log_mel(
    samples_16k: NDArray[np.float32] | None,
    *,
    num_examples: int,
    pad: Literal["repeat", "zero"],
    log_offset: float = 0.01,
    alignment: Alignment = Alignment.AVSBENCH,
) -> NDArray[np.float32]:
    """Log-mel of a clip with a fixed number of examples, float32 [num_examples, 1, 96, 64].

    Too many: cut. Too few: the last repeated (``repeat``, AVSBench S4 and MS3) or zeros
    (``zero``, AVSS). No sound or less than one example: the log-mel of silence. ``alignment`` says
    which sound an example holds.
    """
    if pad not in ("repeat", "zero"):
        raise ValueError(f"pad must be 'repeat' or 'zero', not {pad!r}")
    if samples_16k is None:
        return silence_log_mel(num_examples, log_offset)
    if alignment is Alignment.EXACT:
        examples = _second_examples(samples_16k[: num_examples * SAMPLE_RATE_HZ], log_offset)
    else:
        longest = num_examples * _COLUMNS * _HOP + _WINDOW
        examples = log_mel(samples_16k[:longest], log_offset=log_offset)[:num_examples]
    num_missing = num_examples - len(examples)
    if len(examples) == 0:
        return silence_log_mel(num_examples, log_offset)
    filler = examples[-1:] if pad == "repeat" else np.zeros_like(examples[-1:])
    return np.concatenate([examples, np.repeat(filler, num_missing, axis=0)])


def _second_examples(samples: NDArray[np.float32], log_offset: float) -> NDArray[np.float32]:
    """The middle of each second, float32 [n, 1, 96, 64]; see :attr:`Alignment.EXACT`."""
    num_seconds = (len(samples) + SAMPLE_RATE_HZ // 2) // SAMPLE_RATE_HZ
    whole = np.pad(samples, (0, max(0, num_seconds * SAMPLE_RATE_HZ - len(samples))))
    out = np.empty((num_seconds, 1, _COLUMNS, _BANDS), np.float32)
    for k in range(num_seconds):
        first = k * SAMPLE_RATE_HZ + _MARGIN
        out[k] = log_mel(whole[first : first + _EXAMPLE], log_offset=log_offset)[0]
    return out
