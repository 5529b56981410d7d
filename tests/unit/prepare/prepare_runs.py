"""Prepare runs without Ray, and a made-up data set whose clips cost nothing to decode."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_clips import BINARY, data_config, random_clip
from small_configs import ONE_WORKER

from avs.datasets import DATASETS, ClipSource, DataConfig, DatasetSpec
from avs.errors import MediaError
from avs.prepare import shard as shard_module
from avs.prepare.config import PrepareConfig
from avs.prepare.manifest import MANIFEST, REVISION, Manifest
from avs.prepare.run import run_prepare
from avs.schema import Clip, ClipFormat, Source

SIZE_PX = 16
FORM = ClipFormat(num_frames=2, height_px=SIZE_PX, width_px=SIZE_PX, class_names=BINARY)


def loop(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """One worker, in order."""
    yield from map(function, items)


def config_of(data: DataConfig, out: Path | str, **changes: Any) -> PrepareConfig:
    """Two clips a shard."""
    config = PrepareConfig(data=data, scale=ONE_WORKER, out=str(out), shard_clips=2)
    return replace(config, **changes)


def run(
    config: PrepareConfig,
    execute: Any = loop,
    say: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """A whole prepare run in this process."""
    return run_prepare(config, execute, num_cores=1, say=say)


def made_up_source(number: int, split: str, **changes: Any) -> ClipSource:
    """Clip ``number`` of a user's own data set."""
    uri = f"/videos/{split} {number}.mp4"
    source = ClipSource(
        clip_id=f"mine/videos/{split} {number}.mp4",
        dataset="mine",
        subset="videos",
        split=split,
        source=Source(uri=uri, size_bytes=10_000, version="v1"),
        categories=(("dog", "cat")[number % 2],),
        video=uri,
    )
    return replace(source, **changes)


class MadeUpSet:
    """The data set ``mine``: five train, three val and one test clip; counts what is decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        counts = {"train": 5, "val": 3, "test": 1}
        self.sources = [made_up_source(k, split) for split, n in counts.items() for k in range(n)]
        self.failing: set[str] = set()
        self.warnings: dict[str, list[str]] = {}
        self.decoded: list[str] = []
        self.content: Callable[[ClipSource], str] = lambda s: f"{s.clip_id} {s.source.version}"
        self.at_decode: Callable[[], None] = lambda: None
        spec = DatasetSpec(list_clips=lambda _: list(self.sources), class_names=lambda _: BINARY)
        monkeypatch.setitem(DATASETS, "mine", spec)
        monkeypatch.setattr(shard_module, "prepare_rows", self.prepare_rows)

    def config(self, out: Path | str, **changes: Any) -> PrepareConfig:
        data = data_config("mine", "/videos", image_size_px=SIZE_PX, num_frames=2)
        return config_of(data, out, **changes)

    def change(self, index: int, **changes: Any) -> None:
        """Let a source differ from what was listed before."""
        self.sources[index] = replace(self.sources[index], **changes)

    def prepare_rows(
        self, source: ClipSource, _: DataConfig, warnings: list[str]
    ) -> Iterator[Clip]:
        self.at_decode()
        if source.problem:
            raise MediaError(source.problem)
        self.decoded.append(source.clip_id)
        if source.clip_id in self.failing:
            raise MediaError(f"{source.source.uri} is broken")
        clip = random_clip(
            source.clip_id,
            form=FORM,
            seed=zlib.crc32(self.content(source).encode()),
            split=source.split,
            categories=list(source.categories),
            source=source.source,
            waveform=np.zeros(0, np.int16),
            mask_valid=np.array([False, True]),
        )
        warnings += self.warnings.get(source.clip_id, [])
        yield clip


def content_of(out: Path) -> dict[str, Any]:
    """What a finished folder holds, but for its own path and how often it was changed."""
    files: dict[str, Any] = {
        str(p.relative_to(out)): p.read_bytes()
        for p in out.rglob("*")
        if p.is_file() and p.name not in (MANIFEST, REVISION)
    }
    manifest = json.loads((out / MANIFEST).read_text())
    del manifest["config"], manifest["revision"]
    return {**files, MANIFEST: manifest}
