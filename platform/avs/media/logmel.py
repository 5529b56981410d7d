"""The log-mel front end of VGGish, and 16 kHz resampling.

Values are computed in float64 with numpy as in the reference, so they agree with it to rounding;
torch would be faster by a few milliseconds a clip but only to 1e-4. Resampling is torchaudio's
windowed sinc with the filter of resampy 0.4 "kaiser_best", which the official data was made with:
on real recordings the log-mel then differs from the official one by 0.0003 on average and 0.024 at
most, against 0.005 and 1.0 with torchaudio's default filter, for 3 ms more a clip. It runs block by
block with overlap: the result does not depend on the block length, and hours of sound need no
memory beyond the result.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = [
    "EXAMPLE_S",
    "SAMPLE_RATE_HZ",
    "StreamResampler",
    "clip_log_mel",
    "log_mel",
    "resample",
    "silence_log_mel",
]

SAMPLE_RATE_HZ = 16000
EXAMPLE_S = 0.96
_WINDOW, _HOP, _FFT = 400, 160, 512
_BANDS, _COLUMNS = 64, 96
_LOW_HZ, _HIGH_HZ = 125.0, 7500.0
_EXAMPLES_PER_BLOCK = 64
_BLOCK_S = 20
# resampy 0.4 "kaiser_best"
_ZERO_CROSSINGS, _ROLL_OFF, _KAISER_BETA = 50, 0.917347, 12.9846


def log_mel(
    samples: NDArray[np.float32], sample_rate_hz: int = SAMPLE_RATE_HZ, *, log_offset: float = 0.01
) -> NDArray[np.float32]:
    """VGGish log-mel examples, float32 [n, 1, 96, 64], of mono samples in [-1, 1].

    Example k covers 0.96 k to 0.96 (k + 1) s (96 columns of 10 ms, no overlap); a shorter rest is
    dropped, so the result may have no example. ``log_offset`` is added before the logarithm.
    """
    if samples.ndim != 1:
        raise ValueError(f"samples must be mono [n], not {list(samples.shape)}")
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
) -> NDArray[np.float32]:
    """Log-mel of a clip with a fixed number of examples, float32 [num_examples, 1, 96, 64].

    Too many: cut. Too few: the last repeated (``repeat``, AVSBench S4 and MS3) or zeros
    (``zero``, AVSS). No sound or less than one example: the log-mel of silence.
    """
    if pad not in ("repeat", "zero"):
        raise ValueError(f"pad must be 'repeat' or 'zero', not {pad!r}")
    if samples_16k is None:
        return silence_log_mel(num_examples, log_offset)
    longest = num_examples * _COLUMNS * _HOP + _WINDOW
    examples = log_mel(samples_16k[:longest], log_offset=log_offset)[:num_examples]
    num_missing = num_examples - len(examples)
    if len(examples) == 0:
        return silence_log_mel(num_examples, log_offset)
    filler = examples[-1:] if pad == "repeat" else np.zeros_like(examples[-1:])
    return np.concatenate([examples, np.repeat(filler, num_missing, axis=0)])


def resample(samples: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float32]:
    """Mono float32 [n] at ``sample_rate_hz`` to 16 kHz, length ceil(n * 16000 / rate)."""
    stream = StreamResampler(sample_rate_hz)
    return np.concatenate([stream.push(samples), stream.finish()])


class StreamResampler:
    """Resampling to 16 kHz of sound that arrives in pieces; equal to resampling the whole.

    Blocks begin at whole periods of the rate ratio and carry the filter's reach on both sides.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        if sample_rate_hz <= 0:
            raise ValueError(f"sample_rate_hz must be positive, not {sample_rate_hz}")
        # An odd rate such as 44099 Hz would need a filter bank of gigabytes: the nearest simple
        # ratio is off by less than one part in a million.
        ratio = Fraction(sample_rate_hz, SAMPLE_RATE_HZ).limit_denominator(1000)
        if ratio == 0:
            raise ValueError(f"sample_rate_hz {sample_rate_hz} is too low")
        self._in, self._out = ratio.numerator, ratio.denominator
        reach = math.ceil(_ZERO_CROSSINGS * self._in / (_ROLL_OFF * min(self._in, self._out)))
        self._margin = (reach // self._in + 1) * self._in
        self._block = max(1, _BLOCK_S * sample_rate_hz // self._in) * self._in
        self._pieces: list[NDArray[np.float32]] = []
        self._num_pending = 0
        self._num_left = 0

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take samples [n], give those of the result that are complete [m], m may be 0."""
        if self._in == self._out:
            return samples
        self._pieces.append(samples)
        self._num_pending += len(samples)
        done = [np.zeros(0, np.float32)]
        while self._num_pending >= self._num_left + self._block + self._margin:
            done.append(self._take(self._num_left + self._block, self._margin))
        return np.concatenate(done)

    def finish(self) -> NDArray[np.float32]:
        """The rest of the result, after the last :meth:`push`."""
        if self._num_pending <= self._num_left:
            return np.zeros(0, np.float32)
        return self._take(self._num_pending, 0)

    def _take(self, stop: int, margin: int) -> NDArray[np.float32]:
        pending = np.concatenate(self._pieces)
        window = torch.from_numpy(np.ascontiguousarray(pending[: stop + margin]))
        first = self._num_left // self._in * self._out
        last = math.ceil(stop * self._out / self._in)
        result: NDArray[np.float32] = _resampler(self._in, self._out)(window)[first:last].numpy()
        keep = max(0, stop - self._margin)
        self._pieces = [pending[keep:]]
        self._num_pending = len(pending) - keep
        self._num_left = stop - keep
        return result


@functools.lru_cache(maxsize=8)
def _resampler(rate_in: int, rate_out: int) -> Any:
    import torchaudio  # a second to import, and not needed for sound that is at 16 kHz

    return torchaudio.transforms.Resample(
        rate_in,
        rate_out,
        resampling_method="sinc_interp_kaiser",
        lowpass_filter_width=_ZERO_CROSSINGS,
        rolloff=_ROLL_OFF,
        beta=_KAISER_BETA,
    )
