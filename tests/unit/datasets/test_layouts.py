"""Copies of the data sets as they circulate: moved and doubled folders, dirty metadata."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_clips import data_config, touch, write_png

from avs.datasets import (
    DATASETS,
    AudioConfig,
    AudioSource,
    ClipSource,
    MaskKind,
    MediaSource,
    MissingSound,
    metadata_notes,
)
from avs.datasets.avss_metadata import AVSS_CLASSES, clean_objects, source_video_id
from avs.errors import ConfigError, DataError

AVSS_HEAD = "vid,uid,s_min,s_sec,a_obj,split,label\n"
S4_HEAD = "name,start_time,category,split\n"


def _list(name: str, root: Path, **changes: object) -> list[ClipSource]:
    return DATASETS[name].list_clips(data_config(name, root, **changes))


def _sound(source: str, missing: str = "reject") -> AudioConfig:
    return AudioConfig(source=AudioSource(source), missing=MissingSound(missing))


def _avss_clip(root: Path, place: str, count: int) -> None:
    names = [f"frames/{k}.jpg" for k in range(count)]
    names += [f"labels_rgb/{k}.png" for k in range(count)]
    touch(root, *(f"{place}/{name}" for name in (*names, "audio.wav")))


def _s4_media(root: Path, base: str, *, wav: bool = True, video: bool = False) -> None:
    where = "val/dog/x"
    names = [f"gt_masks/{where}/x_{k}.png" for k in range(1, 6)]
    names += [f"visual_frames/{where}/x_{k}.png" for k in range(1, 6)]
    names += [f"audio_log_mel/{where}.pkl"]
    names += [f"audio_wav/{where}.wav"] if wav else []
    names += [f"raw_videos/{where}.mp4"] if video else []
    touch(root, *(f"{base}/{name}" for name in names))


@pytest.mark.parametrize(
    ("csv_folder", "media"),
    [
        ("", "s4_data"),
        ("Single-source", "Single-source/s4_data"),
        ("", "s4_data/s4_data"),
        ("", "Single-source/s4_data"),
        ("s4_data", "s4_data"),
        ("AVSBench_object/Single-source", "AVSBench_object/Single-source/s4_data"),
        ("index", "s4_data"),
        ("", "."),
    ],
)
def test_s4_is_found_wherever_its_folders_lie(tmp_path: Path, csv_folder: str, media: str) -> None:
    (tmp_path / csv_folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / csv_folder / "s4_meta_data.csv").write_text(S4_HEAD + "x,0,dog,val\n")
    _s4_media(tmp_path, media)
    touch(tmp_path, "Multi-sources/ms3_data/gt_masks/val/x/x_1.png", "ms3_meta_data.csv")
    (clip,) = _list("s4", tmp_path)
    assert clip.problem is None
    assert Path(clip.frames[0]) == tmp_path / media / "visual_frames/val/dog/x/x_1.png"
    assert all(uri and Path(uri).is_file() for uri in clip.masks)


def test_of_several_csv_files_the_one_nearest_to_the_root_is_read(tmp_path: Path) -> None:
    for folder, name in (("", "x"), ("a", "y"), ("z/b", "z")):
        (tmp_path / folder).mkdir(exist_ok=True, parents=True)
        (tmp_path / folder / "s4_meta_data.csv").write_text(f"{S4_HEAD}{name},0,dog,val\n")
    assert [c.video_id for c in _list("s4", tmp_path)] == ["x"]
    (tmp_path / "s4_meta_data.csv").unlink()
    assert [c.video_id for c in _list("s4", tmp_path)] == ["y"]


@pytest.mark.parametrize("csv_folder", ["", "AVSBench_semantic", "avss_index"])
@pytest.mark.parametrize("media", ["v1m", "v1m/v1m", "AVSBench_semantic/v1m"])
def test_avss_is_found_wherever_its_folders_lie(
    tmp_path: Path, csv_folder: str, media: str
) -> None:
    (tmp_path / csv_folder).mkdir(exist_ok=True)
    (tmp_path / csv_folder / "metadata.csv").write_text(AVSS_HEAD + "a,a_1,0,0,dog,val,v1m\n")
    _avss_clip(tmp_path, f"{media}/a_1", 5)
    (clip,) = _list("avss", tmp_path, num_frames=10)
    assert clip.problem is None
    assert Path(clip.frames[4]) == tmp_path / media / "a_1/frames/4.jpg"
    assert clip.mask_kind is MaskKind.RGB
    assert clip.num_classes == 71


@pytest.mark.parametrize(("name", "label", "uid"), [("s4", "v1s", "a_0_5000"), ("ms3", "v1m", "a")])
def test_s4_and_ms3_are_read_from_avsbench_semantic(
    tmp_path: Path, name: str, label: str, uid: str
) -> None:
    rows = [f"a,{uid},0,0,dog,train,{label}", "b,b_0_10000,0,0,cat,train,v2"]
    (tmp_path / "metadata.csv").write_text(AVSS_HEAD + "\n".join(rows) + "\n")
    _avss_clip(tmp_path, f"{label}/{uid}", 5)
    (clip,) = _list(name, tmp_path)
    assert clip.problem is None
    assert clip.clip_id == f"{name}/{label}/{uid}"
    assert (clip.mask_kind, clip.num_classes) == (MaskKind.FOREGROUND, 2)
    assert sum(m is not None for m in clip.masks) == (1 if name == "s4" else 5)
    assert any("differ from those of AVSBench-object" in note for note in clip.notes)


def test_a_test_list_without_a_header_serves_where_there_is_no_csv(tmp_path: Path) -> None:
    lines = [f'-a_b_0_{k},"dog,cat"' for k in range(1, 6)] + [f"c_{k},dog" for k in range(1, 6)]
    (tmp_path / "ms3_test_list.csv").write_text("\n".join(lines) + "\n")
    clips = _list("ms3", tmp_path)
    assert [c.clip_id for c in clips] == ["ms3/Multi-sources/-a_b_0", "ms3/Multi-sources/c"]
    assert [c.categories for c in clips] == [("dog", "cat"), ("dog",)]
    assert {c.split for c in clips} == {"test"}
    assert list(metadata_notes(clips).values()) == [2]
    (tmp_path / "ms3_test_list.csv").write_text("name,split\n")
    with pytest.raises(DataError, match=r"ms3_test_list\.csv: the line 'name,split' is not"):
        _list("ms3", tmp_path)


@pytest.mark.parametrize(
    ("there", "asked", "told"),
    [
        (["ms3_meta_data.csv"], "s4", r"data=ms3 \(ms3_meta_data\.csv\)"),
        (["a/s4_meta_data.csv"], "avss", r"data=s4 \(a/s4_meta_data\.csv\)"),
        (["metadata.csv"], "ms3", r"data=avss \(metadata\.csv\)"),
        (["vpo_ms_data_stereo.csv"], "s4", r"data=vpo \(vpo_ms"),
        (["videos/a.mp4", "masks/a/0.png"], "s4", r"data=labelled \(videos/ and masks/\)"),
        (["a.mp4", "b.mp4"], "vpo", r"data=folder \(2 videos\)"),
        (["s4_meta_data.csv", "metadata.csv"], "labelled", r"data=s4 .*, data=avss "),
    ],
)
def test_the_error_of_a_wrong_data_set_says_which_is_there(
    tmp_path: Path, there: list[str], asked: str, told: str
) -> None:
    touch(tmp_path, *there)
    with pytest.raises(DataError, match=rf"so it is not data={asked}\. It looks like: {told}"):
        _list(asked, tmp_path)


@pytest.mark.parametrize(
    ("media", "source", "wav", "video", "wanted"),
    [
        # source, what there is besides pictures and log-mel -> (kind of sound file, log-mel)
        ("preprocessed", "auto", True, True, ("wav", True)),
        ("preprocessed", "auto", False, True, ("mp4", True)),
        ("preprocessed", "auto", False, False, (None, True)),
        ("preprocessed", "wav", True, True, ("wav", False)),
        ("preprocessed", "video", True, True, ("mp4", False)),
        ("preprocessed", "logmel", True, True, (None, True)),
        ("auto", "auto", True, True, (None, True)),
        ("auto", "wav", True, True, ("wav", False)),
        ("auto", "video", True, True, (None, False)),
        ("auto", "logmel", True, True, (None, True)),
    ],
)
def test_the_sound_of_a_clip_is_what_the_source_allows(
    tmp_path: Path,
    media: str,
    source: str,
    wav: bool,
    video: bool,
    wanted: tuple[str | None, bool],
) -> None:
    (tmp_path / "s4_meta_data.csv").write_text(S4_HEAD + "x,0,dog,val\n")
    _s4_media(tmp_path, "s4_data", wav=wav, video=video)
    (clip,) = _list("s4", tmp_path, media=MediaSource(media), audio=_sound(source))
    assert clip.problem is None
    assert (clip.audio and clip.audio[-3:], clip.log_mel is not None) == wanted


@pytest.mark.parametrize(("source", "named"), [("wav", r"x\.wav"), ("logmel", r"x\.pkl")])
def test_sound_that_is_not_there_is_a_problem_unless_silence_is_fine(
    tmp_path: Path, source: str, named: str
) -> None:
    (tmp_path / "s4_meta_data.csv").write_text(S4_HEAD + "x,0,dog,val\n")
    _s4_media(tmp_path, "s4_data", wav=False, video=True)
    shutil.rmtree(tmp_path / "s4_data/audio_log_mel")
    (clip,) = _list("s4", tmp_path, audio=_sound(source))
    assert clip.problem is not None
    assert named.replace("\\", "") in clip.problem
    (clip,) = _list("s4", tmp_path, audio=_sound(source, "silence"))
    assert clip.problem is None


@pytest.mark.parametrize(
    ("name", "source"),
    [("avss", "logmel"), ("vpo", "video"), ("folder", "wav"), ("labelled", "logmel")],
)
def test_a_sound_source_that_a_data_set_has_not_is_refused(
    tmp_path: Path, name: str, source: str
) -> None:
    touch(tmp_path, "metadata.csv", "a.mp4")
    with pytest.raises(ConfigError, match=rf"data\.audio\.source={source} .*data\.name={name}"):
        _list(name, tmp_path, audio=_sound(source))


@pytest.mark.parametrize(
    ("a_obj", "categories", "notes"),
    [
        ("dog_cat", ("cat", "dog"), ["class order"]),
        ("cat_dog", ("cat", "dog"), []),
        ("h orse", ("horse",), ["'h orse' is read as 'horse'"]),
        ("off-the-screen", (), ["'off-the-screen' is no sounding class"]),
        ("background_man", ("man",), ["'background' is no sounding class"]),
        ("dragon_cat", ("cat", "dragon"), ["'dragon' is not in label2idx", "class order"]),
        ("cat_cat", ("cat",), ["named twice"]),
        ("", (), []),
    ],
)
def test_object_names_are_repaired_and_it_is_said(
    a_obj: str, categories: tuple[str, ...], notes: list[str]
) -> None:
    found, said = clean_objects(a_obj, AVSS_CLASSES)
    assert found == categories
    assert len(said) == len(notes)
    assert all(part in note for part, note in zip(notes, said, strict=True))


@pytest.mark.parametrize(
    ("uid", "label", "video_id"),
    [
        ("-0_a-b_c1_2_4000_9000", "v1s", "-0_a-b_c1_2"),
        ("__GOGlHL23s_4000_9000", "v1s", "__GOGlHL23s"),
        ("_-apT0tfo6U_60000_70000", "v2", "_-apT0tfo6U"),
        ("odd", "v2", "odd"),
        ("_fvpYLXtQHQ_0", "v1m", "_fvpYLXtQHQ"),
        ("4RM67QN9034_22", "v1m", "4RM67QN9034"),
        ("CNbSq__q-_1", "v1m", "CNbSq__q-_1"),
        ("baby_dog_2_1", "v1m", "baby_dog_2"),
    ],
)
def test_the_source_video_is_told_from_the_right(uid: str, label: str, video_id: str) -> None:
    assert source_video_id(uid, label) == video_id


def test_index_and_colour_masks_that_disagree_are_noted(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text(AVSS_HEAD + "a,a_1,0,0,dog,val,v1m\n")
    _avss_clip(tmp_path, "v1m/a_1", 5)
    for k in range(5):
        write_png(tmp_path / f"v1m/a_1/labels_semantic/{k}.png", np.ones((8, 8), np.uint8))
    for colour, count in (((128, 0, 0), 0), ((0, 128, 0), 1)):
        picture = np.full((8, 8, 3), colour, np.uint8)
        write_png(tmp_path / "v1m/a_1/labels_rgb/0.png", picture)
        notes = metadata_notes(_list("avss", tmp_path))
        assert sum("disagree" in note for note in notes) == count


@pytest.mark.parametrize("changed", ["gt_masks/val/dog/x/x_3.png", "audio_wav/val/dog/x.wav"])
def test_a_changed_file_changes_the_source(tmp_path: Path, changed: str) -> None:
    (tmp_path / "s4_meta_data.csv").write_text(S4_HEAD + "x,0,dog,val\n")
    _s4_media(tmp_path, "s4_data")
    (before,) = _list("s4", tmp_path)
    assert _list("s4", tmp_path) == [before]
    (tmp_path / "s4_data" / changed).write_bytes(b"other")
    assert _list("s4", tmp_path) != [before]


def test_the_real_metadata_is_survived_and_counted(real_data: Path) -> None:
    meta = real_data / "avsbench-meta"
    clips = _list("avss", meta, num_frames=10)
    assert len({c.clip_id for c in clips}) == len(clips) == 11356
    notes = metadata_notes(clips)
    assert notes["object name 'h orse' is read as 'horse'"] == 1
    assert notes["object name 'off-the-screen' is no sounding class and is left out"] == 27
    assert notes["object name 'background' is no sounding class and is left out"] == 5
    assert notes["s_sec is 60 or more"] == 1
    assert notes["uid of a v1m clip has no _<k> at its end"] == 25
    assert "uid does not agree with vid, s_min and s_sec" not in notes
    assert {name for c in clips for name in c.categories} <= set(AVSS_CLASSES)
    names = DATASETS["avss"].class_names(data_config("avss", meta))
    assert names == AVSS_CLASSES
    with (meta / "metadata.csv").open() as file:
        vids = {r["uid"]: r["vid"] for r in csv.DictReader(file) if r["label"] != "v1m"}
    assert all(vids.get(c.clip_id.rpartition("/")[2], c.video_id) == c.video_id for c in clips)
    v1m = Counter((c.video_id, c.split) for c in clips if c.subset == "v1m")
    splits = Counter(video for video, _ in v1m)
    assert len(splits) == 219
    assert sum(count > 1 for count in splits.values()) == 56


def test_the_real_test_lists_are_read(real_data: Path, tmp_path: Path) -> None:
    for name, count in (("s4", 740), ("ms3", 64)):
        root = tmp_path / name
        root.mkdir()
        shutil.copy(real_data / f"avsbench-meta/{name}_test_list.csv", root)
        clips = _list(name, root)
        assert len(clips) == count
        assert all(c.problem and "is there" in c.problem for c in clips)


def test_the_real_layouts_are_read_whole(real_data: Path) -> None:
    mini = real_data / "avsbench-mini"
    for name, count in (("s4", 274), ("ms3", 124), ("avss", 40)):
        clips = _list(name, mini, num_frames=10 if name == "avss" else 5)
        assert [c.problem for c in clips] == [None] * count
    labels = json.loads((mini / "AVSBench-semantic/label2idx.json").read_text())
    assert DATASETS["avss"].class_names(data_config("avss", mini)) == tuple(labels)
