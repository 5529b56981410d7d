"""The pictures of a synthetic clip: objects of known shapes moving over a dull texture."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from avs.media.frames import resize_frames

__all__ = ["render_scene"]

_COLOURS = {
    "disc": (225, 60, 50),
    "square": (60, 185, 75),
    "triangle": (60, 105, 230),
    "ring": (240, 200, 50),
    "cross": (200, 70, 205),
}
_PATH_DRAWS = 100


def render_scene(
    kinds: Sequence[str],
    *,
    seed: Sequence[int],
    duration_s: float,
    fps: float,
    shape_px: tuple[int, int],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Frames uint8 [N, H, W, 3] and the layer that each pixel shows, uint8 [N, H, W].

    ``kinds`` go from back to front; layer 0 is the background, layer k shows ``kinds[k - 1]``.
    """
    rng = np.random.default_rng([1, *seed])
    height, width = shape_px
    num_frames = max(1, round(duration_s * fps))
    times_s = np.arange(num_frames) / fps
    frames = _background(rng, times_s / duration_s, shape_px)
    owners = np.zeros((num_frames, height, width), np.uint8)
    sprites = [
        _sprite(rng, kind, round(min(height, width) * rng.uniform(0.28, 0.4))) for kind in kinds
    ]
    paths = _paths(rng, times_s, [len(inside) for inside, _ in sprites], shape_px)
    for layer, ((inside, pixels), path) in enumerate(zip(sprites, paths, strict=True), start=1):
        diameter = len(inside)
        for n, (top, left) in enumerate(path):
            window = np.s_[n, top : top + diameter, left : left + diameter]
            frames[window][inside] = pixels[inside]
            owners[window][inside] = layer
    return frames, owners


def _paths(
    rng: np.random.Generator,
    times_s: NDArray[np.float64],
    diameters_px: Sequence[int],
    shape_px: tuple[int, int],
) -> list[NDArray[np.int64]]:
    """Top-left corners [N, 2] of each object: of many draws the one that keeps them most apart.

    Objects may touch, but a sounding one that is hidden most of the time would be no fair target.
    """
    best: list[NDArray[np.int64]] = []
    best_px = -math.inf
    for _ in range(_PATH_DRAWS):
        paths = [
            np.stack([_bounce(rng, times_s, side - diameter) for side in shape_px], axis=1)
            for diameter in diameters_px
        ]
        clearance_px = _clearance_px(paths, diameters_px)
        if clearance_px > best_px:
            best, best_px = paths, clearance_px
        if best_px >= 0:
            break
    return best


def _clearance_px(paths: Sequence[NDArray[np.int64]], diameters_px: Sequence[int]) -> float:
    """The smallest gap between two objects' circles at any time; negative where they overlap."""
    circles = [(path + d / 2, d) for path, d in zip(paths, diameters_px, strict=True)]
    gaps = [
        float(np.min(np.hypot(*(first - second).T)) - (d + e) / 2)
        for (first, d), (second, e) in itertools.combinations(circles, 2)
    ]
    return min(gaps, default=math.inf)


def _bounce(
    rng: np.random.Generator, times_s: NDArray[np.float64], room_px: int
) -> NDArray[np.int64]:
    """Positions in [0, room_px] at a constant speed, reflected at both ends."""
    speed = rng.uniform(0.05, 0.3) * rng.choice([-1.0, 1.0])
    phase = (rng.uniform(0.0, 2.0) + speed * times_s) % 2.0
    return np.asarray(np.rint(room_px * (1 - np.abs(1 - phase))), np.int64)


def _background(
    rng: np.random.Generator, progress: NDArray[np.float64], shape_px: tuple[int, int]
) -> NDArray[np.uint8]:
    """A dull random texture that drifts slowly; ``progress`` goes from 0 to 1 over the clip."""
    height, width = shape_px
    base = rng.integers(50, 150, 3)
    coarse = np.clip(base + rng.normal(0, 22, (9, 9, 3)), 0, 255).astype(np.uint8)
    fine = rng.normal(0, 5, (height, 2 * width, 1))
    smooth = resize_frames(coarse[None], (height, 2 * width))[0]
    scene = np.clip(smooth + fine, 0, 255).astype(np.uint8)
    shifts = np.rint(progress * rng.uniform(0, 0.5) * width).astype(int)
    return np.stack([scene[:, shift : shift + width] for shift in shifts])


def _sprite(
    rng: np.random.Generator, kind: str, diameter: int
) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Where the object is [D, D] and its shaded colours [D, D, 3]."""
    axis = (np.arange(diameter) + 0.5) / diameter * 2 - 1
    x, y = np.meshgrid(axis, axis)
    angle = rng.uniform(-0.3, 0.3)
    u, v = x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)
    radius = np.hypot(u, v)
    shapes: dict[str, NDArray[np.bool_]] = {
        "disc": radius < 0.95,
        "square": np.maximum(abs(u), abs(v)) < 0.75,
        "triangle": (v < 0.6) & (v > 1.9 * abs(u) - 0.95),
        "ring": (radius < 0.98) & (radius > 0.5),
        "cross": (np.minimum(abs(u), abs(v)) < 0.26) & (np.maximum(abs(u), abs(v)) < 0.92),
    }
    colour = np.array(_COLOURS[kind]) + rng.normal(0, 14, 3)
    shade = 1 + 0.18 * (x * math.cos(angle * 9) + y * math.sin(angle * 9))
    return shapes[kind], np.clip(colour * shade[..., None], 0, 255).astype(np.uint8)
