"""Clips and folders that the tests make for themselves."""

from __future__ import annotations

import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from small_configs import ONE_WORKER

from avs import __version__
from avs.config import dump
from avs.datasets import DATASETS, DataConfig
from avs.datasets.synthetic import Layout, SyntheticConfig
from avs.lease import Lease
from avs.media.encoding import write_mp4
from avs.prepare.config import PrepareConfig
from avs.prepare.manifest import Manifest, ManifestShard, write_manifest
from avs.prepare.plan import config_hash, plan_shards
from avs.prepare.records import ShardRecord
from avs.prepare.shard import write_shard
from avs.schema import SCHEMA_VERSION, Clip, ClipFormat, Source

BINARY = ("background", "sounding")
SIZE_PX = 64


def synthetic_config(layout: Layout, **changes: Any) -> SyntheticConfig:
    """Small clips: 64 px, 8 frames a second, 5 s."""
    values = {"num_train": 2, "num_val": 1, "num_test": 1, "size_px": SIZE_PX, "seed": 3}
    return SyntheticConfig(layout=layout, **{**values, **changes})


def data_config(name: str, root: Path | str, **changes: Any) -> DataConfig:
    """A data set at 64 px and T = 5."""
    values = {"image_size_px": SIZE_PX, "num_frames": 5}
    return DataConfig(name=name, root=str(root), **{**values, **changes})


def clip_format(config: DataConfig) -> ClipFormat:
    """The row format that preparing ``config`` gives."""
    return ClipFormat(
        num_frames=config.num_frames,
        height_px=config.image_size_px,
        width_px=config.image_size_px,
        class_names=DATASETS[config.name].class_names(config),
        with_waveform=config.with_waveform,
    )


def prepare(config: DataConfig, out: Path, *, shard_clips: int = 3) -> Manifest:
    """What the prepare job does, in this process."""
    plans = plan_shards(DATASETS[config.name].list_clips(config), config, shard_clips=shard_clips)
    form = clip_format(config)
    with Lease(str(out), job="test") as lease:
        records = [write_shard(p, config, form, out=str(out), owner=lease.owner) for p in plans]
        manifest = _manifest(config, form, records)
        write_manifest(str(out), manifest)
    return manifest


def _manifest(config: DataConfig, form: ClipFormat, records: list[ShardRecord]) -> Manifest:
    whole = PrepareConfig(data=config, scale=ONE_WORKER, out="out", shard_clips=3)
    keys = ("name", "split", "num_rows", "size_bytes", "sha256")
    return Manifest(
        schema_version=SCHEMA_VERSION,
        avs_version=__version__,
        config=dump(whole),
        config_hash=config_hash(config),
        format=form,
        counts={"ok": sum(r.num_clips for r in records)},
        shards=[ManifestShard(**{k: getattr(r, k) for k in keys}) for r in records if r.num_rows],
    )


def random_clip(
    clip_id: str = "s4/x/a", *, form: ClipFormat, seed: int = 0, **changes: Any
) -> Clip:
    """A clip of noise in every column."""
    rng = np.random.default_rng(seed)
    t, h, w = form.num_frames, form.height_px, form.width_px
    clip = Clip(
        clip_id=clip_id,
        dataset="s4",
        subset="Single-source",
        split="train",
        source=Source(uri="s3://bucket/ä b.mp4", size_bytes=7, version="etag"),
        categories=["dog", "café"],
        native_height_px=360,
        native_width_px=640,
        frame_time_s=np.arange(t) + 15 / 16,
        frames=rng.integers(0, 256, (t, h, w, 3), np.uint8),
        log_mel=rng.normal(size=(t, 1, 96, 64)).astype(np.float32),
        masks=rng.integers(0, len(form.class_names), (t, h, w), np.uint8),
        mask_valid=rng.random(t) < 0.5,
        frame_valid=np.ones(t, np.bool_),
        waveform=rng.integers(-(2**15), 2**15, 16000 * t).astype(np.int16),
    )
    return replace(clip, **changes)


def write_video(
    path: Path, *, duration_s: float, size_px: tuple[int, int] = (48, 80), sound: bool = True
) -> NDArray[np.uint8]:
    """A video of noise that moves, 8 frames a second, with a chirp; returns its frames."""
    rng = np.random.default_rng(round(duration_s * 10))
    tile = rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    count = round(duration_s * 8)
    frames = np.stack([np.roll(tile, 2 * k, 1)[: size_px[0], : size_px[1]] for k in range(count)])
    t = np.arange(round(duration_s * 16000)) / 16000
    samples = 0.4 * np.sin(2 * np.pi * (200 + 150 * t) * t)
    write_mp4(path, frames, fps=8, samples=samples.astype(np.float32) if sound else None)
    return frames


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """A picture, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def touch(root: Path, *names: str) -> None:
    """Files of one byte, with their folders."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def write_wav(path: Path, values: NDArray[Any], *, rate_hz: int = 16000) -> None:
    """A 16-bit wav of [n, channels] values, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(values.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(values.astype("<i2").tobytes())
