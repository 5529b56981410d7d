"""The plan: a function of what was listed and the configuration, and of nothing else."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_clips import clip_format, data_config
from small_configs import ONE_WORKER

from avs.datasets import AudioConfig, ClipSource, DataConfig, MediaSource
from avs.media.logmel import Alignment
from avs.prepare.config import PrepareConfig
from avs.prepare.plan import ShardPlan, config_hash, make_plan, plan_shards
from avs.schema import Source


def _source(number: int, split: str, **changes: Any) -> ClipSource:
    uri = f"/data/{split}/{number}.mp4"
    source = ClipSource(
        clip_id=f"s4/x/{split}{number}",
        dataset="s4",
        subset="x",
        split=split,
        source=Source(uri=uri, size_bytes=10, version="v1"),
        video=uri,
        masks=(f"/data/{number}.png", None),
    )
    return replace(source, **changes)


def _listing() -> list[ClipSource]:
    """Seven train clips, two val and one test, mixed."""
    splits = ["train", "val", "train", "train", "test", "train", "val", "train", "train", "train"]
    return [_source(k, split) for k, split in enumerate(splits)]


def _plan(listing: list[ClipSource] | None = None, **changes: Any) -> list[ShardPlan]:
    config = data_config("s4", "/data", **changes)
    return plan_shards(listing or _listing(), config, shard_clips=3)


def test_each_clip_is_in_one_shard_of_its_split_in_the_listed_order() -> None:
    plans = _plan()
    assert [p.name for p in plans] == [
        "test-00000.parquet",
        "train-00000.parquet",
        "train-00001.parquet",
        "train-00002.parquet",
        "val-00000.parquet",
    ]
    assert [len(p.sources) for p in plans] == [1, 3, 3, 1, 2]
    for split in ("train", "val", "test"):
        planned = [s for p in plans if p.split == split for s in p.sources]
        assert planned == [s for s in _listing() if s.split == split]


def test_the_same_input_gives_the_same_plan() -> None:
    assert _plan(copy.deepcopy(_listing())) == _plan()
    assert len({p.hash for p in _plan()}) == len(_plan())


@pytest.mark.parametrize(
    "change",
    [
        {"source": Source(uri="/data/train/0.mp4", size_bytes=11, version="v1")},
        {"source": Source(uri="/data/train/0.mp4", size_bytes=10, version="v2")},
        {"masks": ("/data/other.png", None)},
        {"problem": "gone"},
        {"categories": ("cat",)},
    ],
)
def test_a_clip_that_changed_changes_its_shard_and_no_other(change: dict[str, Any]) -> None:
    listing = _listing()
    listing[0] = replace(listing[0], **change)
    before, after = _plan(), _plan(listing)
    changed = [a.name for a, b in zip(after, before, strict=True) if a.hash != b.hash]
    assert changed == ["train-00000.parquet"]


@pytest.mark.parametrize("change", [{"notes": ("odd",)}, {"video_id": "kitchen"}])
def test_what_is_told_about_a_clip_does_not_decide_its_rows(change: dict[str, Any]) -> None:
    listing = _listing()
    listing[0] = replace(listing[0], **change)
    assert [p.hash for p in _plan(listing)] == [p.hash for p in _plan()]


def test_the_whole_plan_has_the_format_and_all_clips(s4_root: Path) -> None:
    config = PrepareConfig(
        data=data_config("s4", s4_root), scale=ONE_WORKER, out="out", shard_clips=3
    )
    plan = make_plan(config)
    assert plan.form == clip_format(config.data)
    assert len(plan.sources) == 4
    assert [s for shard in plan.shards for s in shard.sources] == plan.sources


@pytest.mark.parametrize(
    "change",
    [
        {"image_size_px": 32},
        {"num_frames": 10},
        {"media": MediaSource.RAW},
        {"with_waveform": False},
        {"audio": AudioConfig(alignment=Alignment.EXACT)},
        {"name": "ms3"},
    ],
)
def test_what_decides_the_rows_changes_every_hash(change: dict[str, Any]) -> None:
    base = data_config("s4", "/data")
    other: DataConfig = replace(base, **change)
    assert config_hash(other) != config_hash(base)
    changed = plan_shards(_listing(), other, shard_clips=3)
    assert not {p.hash for p in changed} & {p.hash for p in _plan()}


def test_the_root_and_the_limit_do_not_decide_the_rows() -> None:
    base = config_hash(data_config("s4", "/data"))
    assert config_hash(data_config("s4", "/elsewhere", limit=3)) == base


def test_a_folder_from_before_an_option_is_gone_on_with() -> None:
    """The hash that versions without data.audio.alignment wrote for the same rows."""
    assert config_hash(data_config("s4", "/data")) == "c8bad76cad123288"


def test_joined_categories_decide_the_rows_and_not_where_their_csv_lies() -> None:
    plain, one, other = (
        config_hash(data_config("ms3", "/data", categories=uri))
        for uri in (None, "/a/metadata.csv", "s3://bucket/metadata.csv")
    )
    assert one == other != plain


def test_the_limit_keeps_the_first_clips_of_each_split() -> None:
    kept = [s for p in _plan(limit=2) for s in p.sources]
    wanted = [_listing()[k] for k in (4, 0, 2, 1, 6)]
    assert kept == wanted
    whole = {p.name: p.hash for p in _plan()}
    assert {p.name: p.hash for p in _plan(limit=3)}["train-00000.parquet"] == whole[
        "train-00000.parquet"
    ]


@pytest.mark.parametrize("split", ["../up", "a b", "", "x/y"])
def test_the_name_of_a_shard_is_safe_whatever_the_split(split: str) -> None:
    (plan,) = _plan([_source(0, split, problem="bad split")])
    assert plan.name == "split0-00000.parquet"
    assert plan.split == split
