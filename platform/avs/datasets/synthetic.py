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
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avs.datasets.synthetic_scene import render_scene
from avs.datasets.synthetic_sound import RATE_HZ, mix_sound
from avs.media.encoding import write_mp4

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
    frames, owners = render_scene(
        spec.visible,
        seed=spec.seed,
        duration_s=config.duration_s,
        fps=config.fps,
        shape_px=config.shape_px,
    )
    folder.mkdir(parents=True, exist_ok=True)
    num_masks = 1 if is_s4 and spec.split == "train" else int(config.duration_s)
    for k in range(num_masks):
        mask = _mask(spec, config, owners, k)
        Image.fromarray(mask).save(folder / f"{spec.name}_{k + 1}.png", compress_level=1)
    samples = mix_sound(spec.schedule, seed=spec.seed, duration_s=config.duration_s)
    write_mp4(
        videos / f"{spec.name}.mp4",
        frames,
        fps=config.fps,
        samples=samples,
        sample_rate_hz=RATE_HZ,
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
