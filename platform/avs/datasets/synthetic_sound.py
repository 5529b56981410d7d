"""The sound of a synthetic clip: one timbre for each kind of object."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["RATE_HZ", "mix_sound"]

RATE_HZ = 16000
_Signal = NDArray[np.float64]


def mix_sound(
    schedule: Sequence[tuple[float, Sequence[str]]], *, seed: Sequence[int], duration_s: float
) -> NDArray[np.float32]:
    """Mix of the kinds that sound from each start on, over faint noise, float32 [n] in [-1, 1]."""
    rng = np.random.default_rng([2, *seed])
    t = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    mix = 0.001 * rng.standard_normal(len(t))
    starts_s = [start_s for start_s, _ in schedule]
    for (start_s, kinds), stop_s in zip(schedule, [*starts_s[1:], np.inf], strict=True):
        for kind in kinds:
            now = (t >= start_s) & (t < stop_s)
            mix[now] += rng.uniform(0.15, 0.4) * _TIMBRES[kind](rng, t[now])
    return np.clip(mix, -1, 1).astype(np.float32)


def _tone(rng: np.random.Generator, t: _Signal) -> _Signal:
    pitch_hz = rng.uniform(200, 320)
    parts = [np.sin(2 * np.pi * n * pitch_hz * t + rng.uniform(0, 6.28)) / n for n in range(1, 7)]
    return np.asarray(sum(parts) / 1.5, np.float64)


def _pulses(rng: np.random.Generator, t: _Signal) -> _Signal:
    pitch_hz, rate_hz = rng.uniform(600, 850), rng.uniform(5, 7)
    gate = (t * rate_hz + rng.random()) % 1.0 < 0.5
    return np.sign(np.sin(2 * np.pi * pitch_hz * t + rng.uniform(0, 6.28))) * gate * 0.8


def _bursts(rng: np.random.Generator, t: _Signal) -> _Signal:
    centre_hz, rate_hz = rng.uniform(3500, 5000), rng.uniform(2.5, 3.5)
    slow = np.repeat(rng.standard_normal(len(t) // 16 + 1), 16)[: len(t)]
    envelope = np.exp(-4 * ((t * rate_hz + rng.random()) % 1.0))
    return np.asarray(slow * np.sin(2 * np.pi * centre_hz * t) * envelope, np.float64)


def _chirps(rng: np.random.Generator, t: _Signal) -> _Signal:
    low_hz, high_hz, rate_hz = rng.uniform(400, 600), rng.uniform(2600, 3400), rng.uniform(1.6, 2.4)
    phase = (t * rate_hz + rng.random()) % 1.0
    return np.sin(2 * np.pi * (low_hz * phase + (high_hz - low_hz) * phase**2 / 2) / rate_hz)


def _tremolo(rng: np.random.Generator, t: _Signal) -> _Signal:
    pitch_hz, rate_hz = rng.uniform(1500, 1900), rng.uniform(10, 14)
    depth = 0.5 + 0.5 * np.sin(2 * np.pi * rate_hz * t + rng.uniform(0, 6.28))
    return np.asarray(depth * np.sin(2 * np.pi * pitch_hz * t), np.float64)


_TIMBRES: dict[str, Callable[[np.random.Generator, _Signal], _Signal]] = {
    "disc": _tone,
    "square": _pulses,
    "triangle": _bursts,
    "ring": _chirps,
    "cross": _tremolo,
}
