"""Statistics in the manifest: those of all valid pixels, masks and sound, however they are cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_clips import random_clip
from prepare_runs import FORM, MadeUpSet, run

from avs.prepare.reading import read_shard
from avs.prepare.records import ShardRecord, shard_uri
from avs.prepare.statistics import ClipSums, merge_statistics
from avs.schema import IGNORE_INDEX, Clip


def _expected(clips: list[Clip]) -> dict[str, Any]:
    """The same from its definition, on all arrays at once."""
    pixels = np.concatenate([c.frames[c.frame_valid].ravel() for c in clips]).astype(np.float64)
    log_mel = np.concatenate([c.log_mel[c.frame_valid].ravel() for c in clips])
    masks = np.concatenate([c.masks[c.mask_valid] for c in clips])
    assert len(masks), "choose clips with ground truth"
    objects = (masks > 0) & (masks < IGNORE_INDEX)
    return {
        "num_clips": len(clips),
        "num_masks": len(masks),
        "mean_mask_area": pytest.approx(objects.mean()),
        "empty_mask_share": pytest.approx((~objects.any(axis=(1, 2))).mean()),
        "pixels": {"mean": pytest.approx(pixels.mean()), "std": pytest.approx(pixels.std())},
        "log_mel": {
            "mean": pytest.approx(log_mel.mean(), abs=1e-6),
            "std": pytest.approx(log_mel.std(), rel=1e-5),
        },
    }


def _clip(seed: int, *categories: str) -> Clip:
    clip = random_clip(f"mine/x/{seed}", form=FORM, seed=seed, categories=list(categories))
    clip.mask_valid = np.array([True, seed % 2 == 0])
    clip.frame_valid = np.array([True, seed % 3 != 0])
    if seed % 2:
        clip.masks[0] = 0
    clip.masks[1, :3] = IGNORE_INDEX
    return clip


def _record(split: str, clips: list[Clip]) -> ShardRecord:
    sums = ClipSums()
    for clip in clips:
        sums.add(clip)
    return ShardRecord(name="x", split=split, hash="x", statistics=sums.as_dict())


def test_statistics_are_those_of_the_definition() -> None:
    clips = [_clip(0, "dog"), _clip(1, "cat"), _clip(2, "dog", "cat"), _clip(3)]
    merged = merge_statistics([_record("train", clips[:3]), _record("train", clips[3:])])
    by_category = merged["train"].pop("by_category")
    assert merged == {"train": _expected(clips)}
    assert by_category == {
        "cat": _expected([clips[1], clips[2]]),
        "dog": _expected([clips[0], clips[2]]),
    }


def test_a_category_named_twice_counts_once() -> None:
    merged = merge_statistics([_record("train", [_clip(0, "dog", "dog")])])
    assert merged["train"]["by_category"]["dog"]["num_clips"] == 1


def test_unlabelled_clips_have_no_mask_area() -> None:
    clip = _clip(0)
    clip.mask_valid[:] = False
    merged = merge_statistics([_record("all", [clip])])["all"]
    assert (merged["num_masks"], merged["mean_mask_area"], merged["empty_mask_share"]) == (
        0,
        None,
        None,
    )
    assert merged["pixels"]["std"] > 0


def test_a_split_without_a_clip_is_left_out() -> None:
    assert merge_statistics([_record("val", []), ShardRecord(name="o", split="o", hash="")]) == {}


def test_the_manifest_has_them_by_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = MadeUpSet(monkeypatch)
    clips.failing = {clips.sources[1].clip_id}
    manifest = run(clips.config(tmp_path))
    assert set(manifest.statistics) == {"train", "val", "test"}
    assert set(manifest.statistics["train"]["by_category"]) == {"dog", "cat"}
    for split, found in manifest.statistics.items():
        shards = manifest.split_shards(split)
        rows = [c for s in shards for c in read_shard(shard_uri(str(tmp_path), s.name))]
        del found["by_category"]
        assert found == _expected(rows)
    assert manifest.statistics["train"]["num_clips"] == 4


def test_records_of_an_earlier_version_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = MadeUpSet(monkeypatch)
    run(clips.config(tmp_path))
    path = tmp_path / "_records" / "val-00000.parquet.json"
    record = json.loads(path.read_text())
    for key in ("statistics", "contents", "warnings"):
        del record[key]
    path.write_text(json.dumps(record))
    clips.decoded.clear()
    manifest = run(clips.config(tmp_path))
    assert clips.decoded == []
    assert manifest.statistics["val"]["num_clips"] == 1
    assert any(w.startswith("shards of an earlier version: 1;") for w in manifest.warnings)
