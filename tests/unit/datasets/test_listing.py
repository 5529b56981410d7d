"""Where the clips of each data set are, and what a listing says when they are not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_clips import data_config, synthetic_config, write_png

from avs import storage
from avs.datasets import DATASETS, ClipSource, MaskKind, MediaSource, dataset_spec
from avs.datasets.synthetic import Layout, clip_plan
from avs.errors import ConfigError, DataError

S4_HEAD = "name,start_time,category,split\n"


def _list(name: str, root: Path, **changes: Any) -> list[ClipSource]:
    return DATASETS[name].list_clips(data_config(name, root, **changes))


def _touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def _s4_files(name: str, split: str, *, num_masks: int, video: bool = True) -> list[str]:
    where = f"{split}/dog/{name}"
    masks = [f"s4_data/gt_masks/{where}/{name}_{k}.png" for k in range(1, num_masks + 1)]
    frames = [f"s4_data/visual_frames/{where}/{name}_{k}.png" for k in range(1, 6)]
    media = [*frames, f"s4_data/audio_wav/{where}.wav"]
    return [*masks, *([f"s4_data/raw_videos/{where}.mp4"] if video else media)]


@pytest.fixture
def s4_tree(tmp_path: Path) -> Path:
    """One train clip as raw video; files hold one byte each."""
    (tmp_path / "s4_meta_data.csv").write_text(S4_HEAD + "a b,0,dog,train\n")
    _touch(tmp_path, *_s4_files("a b", "train", num_masks=1))
    return tmp_path


def test_s4_train_has_one_mask_and_the_other_splits_five(s4_root: Path) -> None:
    clips = _list("s4", s4_root)
    plan = clip_plan(synthetic_config(Layout.S4))
    assert [c.clip_id for c in clips] == [f"s4/Single-source/{p.name}" for p in plan]
    assert [c.split for c in clips] == [p.split for p in plan]
    assert [c.categories for c in clips] == [(p.category,) for p in plan]
    assert all(c.problem is None and c.audio is None for c in clips)
    for clip, spec in zip(clips, plan, strict=True):
        folder = s4_root / "s4_data/gt_masks" / spec.split / spec.category / spec.name
        masks = [str(folder / f"{spec.name}_{k}.png") for k in range(1, 6)]
        wanted = (masks[0], *[None] * 4) if spec.split == "train" else tuple(masks)
        assert clip.masks == wanted
        assert clip.video == clip.source.uri
        assert clip.source.size_bytes == Path(clip.source.uri).stat().st_size


def test_ms3_has_masks_everywhere_and_categories_where_the_csv_says(ms3_root: Path) -> None:
    clips = _list("ms3", ms3_root)
    plan = clip_plan(synthetic_config(Layout.MS3, num_train=8, num_val=3, num_test=4))
    assert [c.clip_id for c in clips] == [f"ms3/Multi-sources/{p.name}" for p in plan]
    assert [c.categories for c in clips] == [
        tuple(p.category.split("_")) if p.category else () for p in plan
    ]
    assert all(c.problem is None and None not in c.masks and len(c.masks) == 5 for c in clips)
    first = plan[0].name
    assert clips[0].masks[4] == str(ms3_root / f"ms3_data/gt_masks/train/{first}/{first}_5.png")


def test_ms3_preprocessed_frames_carry_mp4_in_their_names(tmp_path: Path) -> None:
    (tmp_path / "ms3_meta_data.csv").write_text("name,split\nx,val\n")
    frames = [f"ms3_data/visual_frames/x/x.mp4_{k}.png" for k in range(1, 6)]
    masks = [f"ms3_data/gt_masks/val/x/x_{k}.png" for k in range(1, 6)]
    _touch(tmp_path, *frames, *masks, "ms3_data/audio_wav/val/x.wav")
    (clip,) = _list("ms3", tmp_path)
    assert clip.problem is None
    assert clip.video is None
    assert clip.frames == tuple(str(tmp_path / f) for f in frames)
    assert clip.audio == str(tmp_path / "ms3_data/audio_wav/val/x.wav")


@pytest.mark.parametrize("media", list(MediaSource))
def test_media_says_which_form_is_read_where_both_are_there(
    s4_tree: Path, media: MediaSource
) -> None:
    _touch(s4_tree, *_s4_files("a b", "train", num_masks=1, video=False))
    (clip,) = _list("s4", s4_tree, media=media)
    assert clip.problem is None
    assert (clip.video is None) == (media is MediaSource.PREPROCESSED)
    assert len(clip.frames) == (5 if media is MediaSource.PREPROCESSED else 0)


def test_auto_reads_the_preprocessed_form_where_there_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "s4_meta_data.csv").write_text(S4_HEAD + "x,0,dog,val\n")
    _touch(tmp_path, *_s4_files("x", "val", num_masks=5, video=False))
    (clip,) = _list("s4", tmp_path)
    assert clip.problem is None
    assert clip.video is None
    assert clip.source.uri == clip.frames[0]


@pytest.mark.parametrize(
    ("media", "gone", "problem"),
    [
        ("auto", "raw_videos", r"neither s4_data/raw_videos/.*a b\.mp4 nor .*a b_1\.png"),
        ("raw", "raw_videos", r"s4_data/raw_videos/train/dog/a b\.mp4 is missing"),
        ("preprocessed", "none", r"visual_frames/.*a b_1\.png to _5\.png or .*\.wav is missing"),
        ("auto", "gt_masks", r"mask s4_data/gt_masks/train/dog/a b/a b_1\.png is missing"),
    ],
)
def test_a_missing_file_is_the_problem_of_its_clip(
    s4_tree: Path, media: str, gone: str, problem: str
) -> None:
    shutil.rmtree(s4_tree / "s4_data" / gone, ignore_errors=True)
    (clip,) = _list("s4", s4_tree, media=MediaSource(media))
    assert re.search(problem, str(clip.problem))


@pytest.mark.parametrize("depth", ["", "data", "a b/c=d"])
def test_the_csv_is_found_up_to_two_levels_deep(s4_tree: Path, tmp_path: Path, depth: str) -> None:
    root = tmp_path / "moved"
    files = [s4_tree / "s4_meta_data.csv", s4_tree / "s4_data"]
    (root / depth).mkdir(parents=True)
    for path in files:
        shutil.move(path, root / depth / path.name)
    (clip,) = _list("s4", root)
    assert clip.problem is None
    assert Path(clip.source.uri).is_file()


def test_a_csv_deeper_than_that_is_not_looked_for(tmp_path: Path) -> None:
    _touch(tmp_path, "a/b/c/s4_meta_data.csv")
    with pytest.raises(DataError, match=r"has no s4_meta_data\.csv .*\(looked two levels deep\)"):
        _list("s4", tmp_path)


@pytest.mark.parametrize("name", ["s4", "ms3", "avss", "folder"])
def test_a_missing_root_and_an_empty_one_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist"):
        _list(name, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty (is an empty folder|holds (0 files|no video))"):
        _list(name, tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "file", "text", "column"),
    [
        ("s4", "s4_meta_data.csv", "name,start_time,split\nx,0,val\n", "category"),
        ("ms3", "ms3_meta_data.csv", "name;split\nx;val\n", "name"),
        ("avss", "metadata.csv", "uid,split,label\nx,val,v2\n", "a_obj"),
        ("s4", "s4_meta_data.csv", "", "name"),
    ],
)
def test_a_missing_column_is_named_with_its_file_and_those_there_are(
    tmp_path: Path, name: str, file: str, text: str, column: str
) -> None:
    (tmp_path / file).write_text(text)
    there = ", ".join(text.splitlines()[0].split(",")) if text else "nothing"
    with pytest.raises(DataError, match=rf"{file} has no column '{column}'; it has: {there}\."):
        _list(name, tmp_path)


@pytest.mark.parametrize("text", [S4_HEAD, S4_HEAD + "\n\n"])
def test_a_csv_without_rows_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "s4_meta_data.csv").write_text(text)
    with pytest.raises(DataError, match=r"s4_meta_data\.csv lists no clips"):
        _list("s4", tmp_path)


def test_a_csv_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "s4_meta_data.csv").write_text(S4_HEAD + "x" * 200_000)
    with pytest.raises(DataError, match=r"s4_meta_data\.csv is not a csv"):
        _list("s4", tmp_path)


def test_a_csv_of_a_spreadsheet_is_read(s4_tree: Path) -> None:
    text = "\ufeff" + S4_HEAD + '"a b", 0, dog, train\n'
    (s4_tree / "s4_meta_data.csv").write_text(text.replace("\n", "\r\n"), newline="")
    assert [c.problem for c in _list("s4", s4_tree)] == [None]


def test_a_split_of_another_name_is_the_problem_of_its_clip(s4_tree: Path) -> None:
    (s4_tree / "s4_meta_data.csv").write_text(S4_HEAD + "a b,0,dog,training\n")
    (clip,) = _list("s4", s4_tree)
    assert clip.problem == "split 'training' is not one of train, val, test"


def test_a_name_listed_twice_is_one_clip_and_one_problem(s4_tree: Path) -> None:
    (s4_tree / "s4_meta_data.csv").write_text(S4_HEAD + "a b,0,dog,train\n" * 3)
    clips = _list("s4", s4_tree)
    assert [c.clip_id.rpartition("/")[2] for c in clips] == ["a b", "a b#2", "a b#3"]
    assert [c.problem is None for c in clips] == [True, False, False]
    assert "a b is listed more than once" in str(clips[1].problem)


def test_a_name_that_leads_out_of_the_root_reaches_nothing(tmp_path: Path) -> None:
    _touch(tmp_path, "secret.mp4", "secret_1.png")
    root = tmp_path / "root"
    root.mkdir()
    outside = "../../../../../secret"
    (root / "s4_meta_data.csv").write_text(f"{S4_HEAD}{outside},0,dog,train\n")
    (clip,) = _list("s4", root)
    assert "neither" in str(clip.problem)


def test_a_name_with_braces_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "s4_meta_data.csv").write_text(S4_HEAD + "a{}b,0,dog,val\n")
    _touch(tmp_path, *_s4_files("a{}b", "val", num_masks=5))
    (clip,) = _list("s4", tmp_path)
    assert clip.problem is None


@pytest.fixture
def avss_tree(tmp_path: Path) -> Path:
    """v1s train, v1m and v2 with index masks; one v2 clip with colour masks only."""
    rows = ["uid,a_obj,split,label", "one,dog,train,v1s", "two,dog_cat,val,v1m"]
    rows += ["three,cat,test,v2", "four,cat,test,v2"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "label2idx.json").write_text('{"background": 1, "dog": 2, "cat": 3}')
    for place, count, kind in (
        ("v1s/one", 5, "semantic"),
        ("v1m/two", 5, "semantic"),
        ("v2/three", 10, "semantic"),
        ("v2/four", 10, "rgb"),
    ):
        num_masks = 1 if place == "v1s/one" else count
        _touch(
            tmp_path,
            f"{place}/audio.wav",
            *[f"{place}/frames/{k}.jpg" for k in range(count)],
            *[f"{place}/labels_{kind}/{k}.png" for k in range(num_masks)],
        )
    return tmp_path


def test_avss_clips_have_their_frames_and_masks(avss_tree: Path) -> None:
    clips = _list("avss", avss_tree, num_frames=10)
    assert [c.clip_id for c in clips] == [
        "avss/v1s/one",
        "avss/v1m/two",
        "avss/v2/three",
        "avss/v2/four",
    ]
    assert [c.problem for c in clips] == [None] * 4
    assert [len(c.frames) for c in clips] == [5, 5, 10, 10]
    assert [sum(m is not None for m in c.masks) for c in clips] == [1, 5, 10, 10]
    assert [c.mask_kind for c in clips] == [MaskKind.INDEX] * 3 + [MaskKind.RGB]
    assert clips[1].categories == ("dog", "cat")
    assert clips[3].masks[9] == str(avss_tree / "v2/four/labels_rgb/9.png")


def test_avss_class_names_come_in_the_order_of_the_file_whatever_its_numbers(
    avss_tree: Path,
) -> None:
    names = DATASETS["avss"].class_names(data_config("avss", avss_tree))
    assert names == ("background", "dog", "cat")


@pytest.mark.parametrize("text", ["[]", "{}", '{"dog": 0}'])
def test_avss_labels_without_background_first_are_refused(avss_tree: Path, text: str) -> None:
    (avss_tree / "label2idx.json").write_text(text)
    with pytest.raises(DataError, match=r"label2idx\.json is not a mapping that begins with"):
        DATASETS["avss"].class_names(data_config("avss", avss_tree))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("one,dog,train,v9", r"label 'v9' is not one of v1s, v1m, v2"),
        ("none,dog,train,v1s", r"v1s/none/frames/0\.jpg is missing"),
        ("one,dog,training,v1s", r"split 'training' is not one of"),
    ],
)
def test_avss_problems_are_said(avss_tree: Path, row: str, problem: str) -> None:
    (avss_tree / "metadata.csv").write_text(f"uid,a_obj,split,label\n{row}\n")
    (clip,) = _list("avss", avss_tree)
    assert re.search(problem, str(clip.problem))


def test_avss_names_listed_twice_are_one_clip_and_one_problem(avss_tree: Path) -> None:
    row = "one,dog,train,v1s\n"
    (avss_tree / "metadata.csv").write_text("uid,a_obj,split,label\n" + row + row)
    clips = _list("avss", avss_tree)
    assert [c.clip_id for c in clips] == ["avss/v1s/one", "avss/v1s/one#2"]
    assert clips[0].problem is None
    assert "one is listed more than once" in str(clips[1].problem)


def test_a_folder_gives_its_videos_by_suffix(tmp_path: Path) -> None:
    _touch(tmp_path, "b/x y.MP4", "a.webm", "notes.txt", "poster.png", "c/é.mkv")
    clips = _list("folder", tmp_path)
    assert [c.clip_id for c in clips] == [
        f"folder/videos/{name}" for name in ("a.webm", "b/x y.MP4", "c/é.mkv")
    ]
    assert [c.video for c in clips] == [
        str(tmp_path / name) for name in ("a.webm", "b/x y.MP4", "c/é.mkv")
    ]
    assert all(c.split == "all" and c.masks == () and c.categories == () for c in clips)


def test_a_single_file_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    _touch(tmp_path, "upload", "other.mp4")
    (clip,) = _list("folder", tmp_path / "upload")
    assert clip.clip_id == "folder/videos/upload"
    assert clip.source.size_bytes == 1


def test_a_folder_without_videos_says_what_is_taken_for_one(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(DataError, match=r"holds no video \(known: .*\.mp4"):
        _list("folder", tmp_path)


def test_a_prefix_of_a_bucket_is_listed_like_a_folder(s4_tree: Path, s3_folder: str) -> None:
    for info in storage.list_files(str(s4_tree)):
        data = storage.read_bytes(storage.join(str(s4_tree), info.path))
        storage.write_bytes(storage.join(s3_folder, "deep", info.path), data)
    (clip,) = DATASETS["s4"].list_clips(data_config("s4", s3_folder))
    assert clip.problem is None
    assert clip.video == f"{s3_folder}/deep/s4_data/raw_videos/train/dog/a b.mp4"
    assert clip.source.version


def test_an_unknown_data_set_names_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"data\.name=sv4 is not known.*avss.*ms3.*Did you mean s4"
    ):
        dataset_spec("sv4")


def test_synthetic_lists_the_layout_that_was_written(s4_root: Path, ms3_root: Path) -> None:
    for layout, root, prefix in ((Layout.S4, s4_root, "s4/"), (Layout.MS3, ms3_root, "ms3/")):
        clips = _list("synthetic", root, synthetic=synthetic_config(layout))
        assert all(c.clip_id.startswith(prefix) and c.problem is None for c in clips)
    with pytest.raises(DataError, match="synthetic"):
        _list("synthetic", s4_root)
