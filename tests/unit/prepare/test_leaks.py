"""Leaks between splits: told with numbers for published splits, refused for a user's own."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from made_clips import random_clip
from prepare_runs import FORM, MadeUpSet, made_up_source, run

from avs.datasets import DATASETS
from avs.datasets.avss_metadata import source_video_id
from avs.errors import DataError
from avs.prepare.leaks import PUBLISHED, content_hash, report_leaks, source_leaks
from avs.prepare.manifest import MANIFEST


@pytest.fixture
def clips(monkeypatch: pytest.MonkeyPatch) -> MadeUpSet:
    return MadeUpSet(monkeypatch)


def test_clips_of_one_video_in_two_splits_are_refused_before_decoding(
    clips: MadeUpSet, tmp_path: Path
) -> None:
    clips.change(1, video_id="kitchen")
    clips.change(6, video_id="kitchen")
    named = (
        r"source videos in several splits: 1 \(2 clips\), "
        r"mine/videos/train 1\.mp4 \(train\) = mine/videos/val 1\.mp4 \(val\)\. Put all clips of "
    )
    with pytest.raises(DataError, match=named):
        run(clips.config(tmp_path / "out"))
    assert clips.decoded == []
    assert not (tmp_path / "out").exists()


def test_the_same_content_in_two_splits_is_refused_before_the_manifest(
    clips: MadeUpSet, tmp_path: Path
) -> None:
    clips.content = lambda s: "same" if s in (clips.sources[0], clips.sources[8]) else s.clip_id
    with pytest.raises(DataError, match=r"contents \(same frames and sound\) in.*test 0.*train 0"):
        run(clips.config(tmp_path))
    assert not (tmp_path / MANIFEST).exists()
    clips.decoded.clear()
    manifest = run(clips.config(tmp_path, allow_leaks=True))
    assert clips.decoded == []
    (warning,) = manifest.warnings
    assert warning.startswith("contents (same frames and sound) in several splits: 1 (2 clips), ")


def test_what_one_split_holds_twice_is_no_leak(clips: MadeUpSet, tmp_path: Path) -> None:
    for index in (0, 1):
        clips.change(index, video_id="kitchen")
    clips.content = lambda s: "same" if s in clips.sources[:2] else s.clip_id
    assert run(clips.config(tmp_path)).warnings == []


def test_a_clip_that_the_listing_rejects_leaks_nothing(clips: MadeUpSet, tmp_path: Path) -> None:
    clips.change(1, video_id="kitchen", problem="not there")
    clips.change(6, video_id="kitchen")
    assert run(clips.config(tmp_path)).warnings == []


def test_the_media_file_stands_for_a_video_without_an_id() -> None:
    one = made_up_source(0, "train")
    other = made_up_source(0, "val", source=one.source)
    (leak,) = source_leaks([one, other])
    assert leak.clips == (("train", one.clip_id), ("val", other.clip_id))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_splits_only_warn(name: str) -> None:
    leaks = source_leaks(
        made_up_source(k, split, video_id=str(k)) for split in ("train", "test") for k in range(5)
    )
    (warning,) = report_leaks(leaks, dataset=name, allow=False)
    assert warning.startswith("source videos in several splits: 5 (10 clips), ")
    assert warning.endswith(", and 2 more")


def test_every_data_set_is_published_or_a_users_own() -> None:
    """A new data set decides whether its splits can be mended by whoever prepares it."""
    assert set(DATASETS) - set(PUBLISHED) == {"folder", "labelled"}


def test_the_content_is_frames_and_sound_and_nothing_else() -> None:
    clip = random_clip("a", form=FORM, seed=1)
    assert content_hash(random_clip("b", form=FORM, seed=1, split="val")) == content_hash(clip)
    for name in ("frames", "waveform"):
        other = random_clip("a", form=FORM, seed=1)
        getattr(other, name).reshape(-1)[0] ^= 1
        assert content_hash(other) != content_hash(clip), name
    silent = np.zeros(0, np.int16)
    one = random_clip("a", form=FORM, seed=1, waveform=silent)
    two = random_clip("a", form=FORM, seed=1, waveform=silent, log_mel=one.log_mel + 1)
    assert content_hash(one) != content_hash(two)


def test_the_published_metadata_leaks_as_is_known(real_data: Path) -> None:
    """56 of 219 source videos of v1m, 81 over all of AVSBench-semantic."""
    with (real_data / "avsbench-meta" / "metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sources = [
        made_up_source(
            k, row["split"], video_id=source_video_id(row["uid"], row["label"]), subset=row["label"]
        )
        for k, row in enumerate(rows)
    ]
    v1m = [source for source in sources if source.subset == "v1m"]
    assert len({source.video_id for source in v1m}) == 219
    assert len(source_leaks(v1m)) == 56
    (warning,) = report_leaks(source_leaks(sources), dataset="avss", allow=False)
    assert warning.startswith("source videos in several splits: 81 (")
