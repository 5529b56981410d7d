"""Made-up clips in the official S4 and MS3 layouts: moving objects of which only some sound.

Five kinds of objects (shape and colour family), each with its own timbre, move over a textured
background; the masks show the visible part of those that sound at the sampled frame. Two or three
kinds are always visible, so a model that does not listen cannot know which is meant. They are real
H.264 and AAC files, read like any download. A clip is a function of (seed, split, index) and the
config alone: it does not change with the number of clips or with the process that writes it.
"""

from __future__ import annotations

import csv
import enum
import itertools
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avs.media.encoding import write_mp4
from avs.media.frames import resize_frames

__all__ = [
    "KINDS",
    "ClipSpec",
    "Layout",
    "SyntheticConfig",
    "clip_plan",
    "write_clip",
    "write_metadata",
    "write_synthetic",
]

KINDS = ("disc", "square", "triangle", "ring", "cross")
_SPLITS = ("train", "val", "test")
_COLOURS = ((225, 60, 50), (60, 185, 75), (60, 105, 230), (240, 200, 50), (200, 70, 205))
_RATE_HZ = 16000
_PATH_DRAWS = 100
_GOLDEN = 0.6180339887498949


class Layout(enum.Enum):
    """Which official data set the files look like."""

    S4 = "s4"
    MS3 = "ms3"


@dataclass(kw_only=True, slots=True)
class SyntheticConfig:
    """What to make. ``size_px`` is the height, and the width unless ``width_px`` is set.

    ``switch_ratio`` and ``silent_ratio`` are shares of the clips of the MS3 layout.
    """

    layout: Layout
    num_train: int
    num_val: int
    num_test: int
    size_px: int = 96
    width_px: int | None = None
    fps: float = 8.0
    duration_s: float = 5.0
    seed: int = 0
    switch_ratio: float = 0.15
    silent_ratio: float = 0.1

    def __post_init__(self) -> None:
        for key in ("num_train", "num_val", "num_test", "seed"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} must not be negative, is {getattr(self, key)}")
        for key, value in (("size_px", self.size_px), ("width_px", self.width_px or 32)):
            if value < 32 or value % 2:
                raise ValueError(f"{key} must be even and at least 32, is {value}")
        if not 1 <= self.fps <= 120:
            raise ValueError(f"fps must be between 1 and 120, is {self.fps}")
        if not 1 <= self.duration_s <= 600:
            raise ValueError(f"duration_s must be between 1 and 600, is {self.duration_s}")
        for key in ("switch_ratio", "silent_ratio"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{key} must be between 0 and 1, is {getattr(self, key)}")
        if self.switch_ratio + self.silent_ratio > 1:
            total = self.switch_ratio + self.silent_ratio
            raise ValueError(f"switch_ratio + silent_ratio must be at most 1, is {total}")

    @property
    def shape_px(self) -> tuple[int, int]:
        """(height, width)"""
        return self.size_px, self.width_px or self.size_px


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSpec:
    """One clip: ``visible`` kinds from back to front, and which of them sound from when on."""

    split: str
    name: str
    index: int
    seed: tuple[int, int, int]
    visible: tuple[str, ...]
    schedule: tuple[tuple[float, tuple[str, ...]], ...]

    @property
    def category(self) -> str:
        """Kinds that sound at any time, in the order of :data:`KINDS`, joined by "_"."""
        heard = {kind for _, kinds in self.schedule for kind in kinds}
        return "_".join(kind for kind in KINDS if kind in heard)

    def sounding(self, time_s: float) -> tuple[str, ...]:
        """Kinds that sound at a time."""
        return [kinds for start_s, kinds in self.schedule if start_s <= time_s][-1]


def clip_plan(config: SyntheticConfig) -> list[ClipSpec]:
    """Specs of all clips: train, val, test."""
    counts = (config.num_train, config.num_val, config.num_test)
    return [
        _plan_clip(config, split_index, index)
        for split_index, count in enumerate(counts)
        for index in range(count)
    ]


def _plan_clip(config: SyntheticConfig, split_index: int, index: int) -> ClipSpec:
    seed = (config.seed, split_index, index)
    rng = np.random.default_rng([0, *seed])
    first = KINDS[(index + split_index + config.seed) % len(KINDS)]
    others = [kind for kind in KINDS if kind != first]
    chosen = [first, *rng.permutation(others)[: rng.integers(1, 3)].tolist()]
    visible = tuple(rng.permutation(chosen).tolist())
    schedule: tuple[tuple[float, tuple[str, ...]], ...] = ((0.0, (first,)),)
    if config.layout is Layout.MS3:
        # Evenly spread over the clips, so that small sets hold their share too.
        share = (index * _GOLDEN + 0.37 * split_index + 0.13 * config.seed) % 1.0
        switch_s = config.duration_s * float(rng.uniform(0.4, 0.6))
        if share < config.silent_ratio:
            schedule = ((0.0, ()),)
        elif share < config.silent_ratio + config.switch_ratio:
            schedule = ((0.0, (first,)), (switch_s, (chosen[1],)))
        elif len(chosen) == 3 and rng.random() < 0.4:
            schedule = ((0.0, (first, chosen[1])),)
    split = _SPLITS[split_index]
    name = f"syn{config.seed}{split}{index:05d}"
    return ClipSpec(
        split=split, name=name, index=index, seed=seed, visible=visible, schedule=schedule
    )


def write_synthetic(root: str | os.PathLike[str], config: SyntheticConfig) -> None:
    """Write all clips, then the metadata, into ``root`` (the folder with the csv)."""
    specs = clip_plan(config)
    for spec in specs:
        write_clip(root, spec, config)
    write_metadata(root, specs, config)


def write_metadata(
    root: str | os.PathLike[str], specs: Sequence[ClipSpec], config: SyntheticConfig
) -> None:
    """Write the official csv; MS3 with a further column ``category``, empty for silent clips."""
    if config.layout is Layout.S4:
        header = ["name", "start_time", "category", "split"]
        rows = [[spec.name, "0", spec.category, spec.split] for spec in specs]
    else:
        header = ["name", "split", "category"]
        rows = [[spec.name, spec.split, spec.category] for spec in specs]
    target = Path(root) / f"{config.layout.value}_meta_data.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    partial.replace(target)


def write_clip(root: str | os.PathLike[str], spec: ClipSpec, config: SyntheticConfig) -> None:
    """Write the video and the masks of one clip."""
    data = Path(root) / f"{config.layout.value}_data"
    is_s4 = config.layout is Layout.S4
    folder = data / "gt_masks" / spec.split / (spec.category if is_s4 else "") / spec.name
    videos = data / "raw_videos" / (f"{spec.split}/{spec.category}" if is_s4 else "")
    frames, owners = _render(spec, config)
    folder.mkdir(parents=True, exist_ok=True)
    num_masks = 1 if is_s4 and spec.split == "train" else int(config.duration_s)
    for k in range(num_masks):
        mask = _mask(spec, config, owners, k)
        Image.fromarray(mask).save(folder / f"{spec.name}_{k + 1}.png", compress_level=1)
    samples = _sound(spec, config)
    write_mp4(
        videos / f"{spec.name}.mp4",
        frames,
        fps=config.fps,
        samples=samples,
        sample_rate_hz=_RATE_HZ,
    )


def _mask(
    spec: ClipSpec, config: SyntheticConfig, owners: NDArray[np.uint8], k: int
) -> NDArray[np.uint8]:
    """0/255 [H, W] of what sounds in the frame that AVSBench samples for second k."""
    fps = max(1, round(config.fps))
    index = min(int(k * fps + 15 / 16 * fps), len(owners) - 1)
    heard = spec.sounding(index / config.fps)
    layers = [1 + layer for layer, kind in enumerate(spec.visible) if kind in heard]
    return np.isin(owners[index], layers).astype(np.uint8) * 255


def _render(spec: ClipSpec, config: SyntheticConfig) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Frames [N, H, W, 3] and the layer that each pixel shows [N, H, W], 0 = background."""
    rng = np.random.default_rng([1, *spec.seed])
    height, width = config.shape_px
    num_frames = max(1, round(config.duration_s * config.fps))
    times_s = np.arange(num_frames) / config.fps
    frames = _background(rng, times_s, config)
    owners = np.zeros((num_frames, height, width), np.uint8)
    sprites = [
        _sprite(rng, kind, round(min(height, width) * rng.uniform(0.28, 0.4)))
        for kind in spec.visible
    ]
    paths = _paths(rng, times_s, [len(inside) for inside, _ in sprites], (height, width))
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
    rng: np.random.Generator, times_s: NDArray[np.float64], config: SyntheticConfig
) -> NDArray[np.uint8]:
    """A dull random texture that drifts slowly."""
    height, width = config.shape_px
    base = rng.integers(50, 150, 3)
    coarse = np.clip(base + rng.normal(0, 22, (9, 9, 3)), 0, 255).astype(np.uint8)
    fine = rng.normal(0, 5, (height, 2 * width, 1))
    smooth = resize_frames(coarse[None], (height, 2 * width))[0]
    scene = np.clip(smooth + fine, 0, 255).astype(np.uint8)
    shifts = np.rint(times_s / config.duration_s * rng.uniform(0, 0.5) * width).astype(int)
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
    colour = np.array(_COLOURS[KINDS.index(kind)]) + rng.normal(0, 14, 3)
    shade = 1 + 0.18 * (x * math.cos(angle * 9) + y * math.sin(angle * 9))
    return shapes[kind], np.clip(colour * shade[..., None], 0, 255).astype(np.uint8)


def _sound(spec: ClipSpec, config: SyntheticConfig) -> NDArray[np.float32]:
    """Mix of the kinds while they sound, over faint noise, float32 [n] in [-1, 1]."""
    rng = np.random.default_rng([2, *spec.seed])
    t = np.arange(round(config.duration_s * _RATE_HZ)) / _RATE_HZ
    mix = 0.001 * rng.standard_normal(len(t))
    starts_s = [start_s for start_s, _ in spec.schedule]
    for (start_s, kinds), stop_s in zip(spec.schedule, [*starts_s[1:], np.inf], strict=True):
        for kind in kinds:
            now = (t >= start_s) & (t < stop_s)
            mix[now] += rng.uniform(0.15, 0.4) * _TIMBRES[kind](rng, t[now])
    return np.clip(mix, -1, 1).astype(np.float32)


_Signal = NDArray[np.float64]


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
