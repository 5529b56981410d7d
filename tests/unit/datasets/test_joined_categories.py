"""Categories of MS3 from AVSBench-semantic's csv: joined by id, the missing ones counted."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from made_clips import data_config, prepare, touch
from small_configs import ONE_WORKER

from avs.datasets import DATASETS, ClipSource, metadata_notes
from avs.datasets.avss_metadata import AVSS_CLASSES
from avs.errors import ConfigError, DataError
from avs.prepare.config import PrepareConfig
from avs.prepare.run import run_prepare
from avs.training.feed import ClipReader

HEAD = "vid,uid,s_min,s_sec,a_obj,split,label\n"
NO_ROW = "the csv of data.categories has no row for the clip, which gets no category"


def _list(root: Path, uri: Path | None) -> list[ClipSource]:
    config = data_config("ms3", root, categories=None if uri is None else str(uri))
    return DATASETS["ms3"].list_clips(config)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three clips, two of them of one video; the csv has a column of its own."""
    rows = ["vid-eo_1234_0,train,car", "vid-eo_1234_1,train,car", "other,test,car"]
    folder = tmp_path / "ms3"
    folder.mkdir()
    (folder / "ms3_meta_data.csv").write_text("name,split,category\n" + "\n".join(rows) + "\n")
    return folder


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    """Knows the two clips of one video, with the dirt of the real file; and a clip of v2."""
    path = tmp_path / "metadata.csv"
    rows = [
        "vid-eo_1234_0,vid-eo_1234_0,0,0,woman_bird,train,v1m",
        "vid-eo_1234_1,vid-eo_1234_1,0,0,background,train,v1m",
        "other,other_0_10000,0,0,dog,train,v2",
    ]
    path.write_text(HEAD + "\n".join(rows) + "\n")
    return path


def test_each_clip_gets_the_objects_of_its_own_row(root: Path, metadata: Path) -> None:
    clips = _list(root, metadata)
    assert [c.categories for c in clips] == [("bird", "woman"), (), ()]
    notes = metadata_notes(clips)
    assert notes[NO_ROW] == 1, "a row of v2 is of another clip"
    assert notes["object name 'background' is no sounding class and is left out"] == 1
    assert [c.categories for c in _list(root, None)] == [("car",)] * 3


def test_a_csv_that_knows_no_clip_is_refused(root: Path, metadata: Path, tmp_path: Path) -> None:
    metadata.write_text(HEAD + "a,a_0_5000,0,0,dog,train,v1s\n")
    with pytest.raises(
        DataError, match=r"metadata\.csv has no row for any of the 3 clips .*vid-eo"
    ):
        _list(root, metadata)
    with pytest.raises(DataError, match=r"data\.categories=.*gone\.csv does not exist"):
        _list(root, tmp_path / "gone.csv")
    with pytest.raises(DataError, match=r"ms3_meta_data\.csv has no column 'uid'"):
        _list(root, root / "ms3_meta_data.csv")


def test_only_data_that_lacks_categories_takes_them(tmp_path: Path, metadata: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.categories=x is for data=ms3 alone.*name=s4"):
        data_config("s4", tmp_path, categories="x")
    touch(tmp_path, "v1m/vid-eo_1234_0/frames/0.jpg")
    with pytest.raises(ConfigError, match=r"AVSBench-semantic, whose own metadata\.csv"):
        _list(tmp_path, metadata)


def test_preparing_writes_them_and_warns_of_the_missing(ms3_root: Path, tmp_path: Path) -> None:
    names = [c.clip_id.rpartition("/")[2] for c in _list(ms3_root, None)]
    path, out = tmp_path / "metadata.csv", tmp_path / "out"
    lines = [f"{name},{name},0,0,drum_dog,train,v1m" for name in names[:-1]]
    path.write_text(HEAD + "\n".join(lines) + "\n")
    config = data_config("ms3", ms3_root, categories=str(path))
    manifest = run_prepare(
        PrepareConfig(data=config, scale=ONE_WORKER, out=str(out), shard_clips=4),
        lambda work, tasks: map(work, tasks),
        num_cores=1,
        say=lambda _: None,
    )
    assert f"1 x {NO_ROW}" in manifest.warnings
    readers = [ClipReader(str(out), split=split) for split in ("train", "val", "test")]
    found = [categories for reader in readers for categories in reader.categories()]
    assert sorted(found) == sorted([("dog", "drum")] * (len(names) - 1) + [()])
    plain = prepare(data_config("ms3", ms3_root), tmp_path / "plain")
    assert plain.config_hash != manifest.config_hash


def test_the_real_csv_knows_every_clip_of_ms3(real_data: Path, tmp_path: Path) -> None:
    meta = real_data / "avsbench-meta"
    shutil.copy(meta / "ms3_meta_data.csv", tmp_path)
    clips = _list(tmp_path, meta / "metadata.csv")
    assert len(clips) == 424
    notes = metadata_notes(clips)
    assert NO_ROW not in notes
    assert sum(not c.categories for c in clips) == 5, "those that say 'background'"
    assert {name for c in clips for name in c.categories} <= set(AVSS_CLASSES)
    with (meta / "ms3_test_list.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    official = {line[0].rpartition("_")[0]: set(line[1].split(", ")) for line in lines}
    joined = {c.clip_id.rpartition("/")[2]: set(c.categories) for c in clips if c.split == "test"}
    assert joined == official
