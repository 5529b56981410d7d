"""Resampling to 16 kHz.

The windowed sinc of torchaudio's ``Resample`` with the filter of resampy 0.4 "kaiser_best", which
the official data was made with: on real recordings the log-mel then differs from the official one
by 0.0003 on average and 0.024 at most, against 0.005 and 1.0 with torchaudio's default filter, for
3 ms more a clip. On numpy, equal to torchaudio to 2e-5 (whose filters are float32) and faster: a
decoder process without torch starts in 0.2 s and not in 2 s, and is smaller by 500 MB. It runs
block by block with overlap: the result does not depend on the block length, and hours of sound need
no memory beyond the result.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

__all__ = ["SAMPLE_RATE_HZ", "StreamResampler", "resample"]

SAMPLE_RATE_HZ = 16000
_BLOCK_S = 20
_OUTPUTS_PER_ROW = 128
# resampy 0.4 "kaiser_best"
_ZERO_CROSSINGS, _ROLL_OFF, _KAISER_BETA = 50, 0.917347, 12.9846


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
        first = self._num_left // self._in * self._out
        last = math.ceil(stop * self._out / self._in)
        result = _convolve(pending[: stop + margin], self._in, self._out)[first:last]
        keep = max(0, stop - self._margin)
        self._pieces = [pending[keep:]]
        self._num_pending = len(pending) - keep
        self._num_left = stop - keep
        return result


def _convolve(samples: NDArray[np.float32], rate_in: int, rate_out: int) -> NDArray[np.float32]:
    """The resampled signal, cut to ceil(n * rate_out / rate_in)."""
    length = math.ceil(len(samples) * rate_out / rate_in)
    # A product of few long rows: of 48 kHz, a period is three samples and windows overlap a lot.
    num_periods = math.ceil(_OUTPUTS_PER_ROW / rate_out)
    step = num_periods * rate_in
    kernels = _kernels(step, num_periods * rate_out)
    reach = (len(kernels) - step) // 2
    padded = np.pad(samples, (reach, reach + step))
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernels))[::step]
    # In float64, or rounding would depend on how the matrix product is cut among threads.
    resampled = windows.astype(np.float64) @ kernels
    return resampled.reshape(-1)[:length].astype(np.float32)


@functools.lru_cache(maxsize=8)
def _kernels(rate_in: int, rate_out: int) -> NDArray[np.float64]:
    """One filter for each of the ``rate_out`` outputs of ``rate_in`` samples, [taps, rate_out]."""
    cut_off = min(rate_in, rate_out) * _ROLL_OFF
    reach = math.ceil(_ZERO_CROSSINGS * rate_in / cut_off)
    taps = np.arange(-reach, reach + rate_in)[:, None] / rate_in
    crossings = (taps - np.arange(rate_out)[None, :] / rate_out) * cut_off
    crossings = np.clip(crossings, -_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    rim = np.sqrt(1 - (crossings / _ZERO_CROSSINGS) ** 2)
    window = np.i0(_KAISER_BETA * rim) / np.i0(_KAISER_BETA)
    filters: NDArray[np.float64] = np.sinc(crossings) * window * cut_off / rate_in
    return filters
