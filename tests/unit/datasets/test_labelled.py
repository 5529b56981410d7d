"""A user's labelled videos: which masks belong to which video, splits, and what is left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_clips import SIZE_PX, data_config, touch, write_png, write_video

from avs.datasets import DATASETS, ClipSource, metadata_notes
from avs.datasets.labelled import seeded_split
from avs.errors import DataError, MediaError
from avs.inference import MaskTrack
from avs.inference.outputs import OutputKind, folder_name, write_outputs
from avs.media.masks import resize_mask
from avs.media.video import Sampling, decode_video
from avs.prepare.clip import prepare_clip, prepare_rows
from avs.schema import Clip

NATIVE = (48, 80)


def _list(root: Path, **changes: object) -> list[ClipSource]:
    return DATASETS["labelled"].list_clips(data_config("labelled", root, **changes))


def _rows(root: Path, **changes: object) -> list[Clip]:
    config = data_config("labelled", root, **changes)
    return [clip for source in _list(root) for clip in prepare_clip(source, config)]


def _mask(value: int) -> np.ndarray:
    mask = np.zeros(NATIVE, np.uint8)
    mask[:, : 10 * value] = 255
    return mask


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 12 s with sound."""
    path = tmp_path_factory.mktemp("video") / "x.mp4"
    write_video(path, duration_s=12, size_px=NATIVE)
    return path


@pytest.fixture
def root(tmp_path: Path, video: Path) -> Path:
    """``videos/a b/x.mp4`` without masks."""
    (tmp_path / "videos/a b").mkdir(parents=True)
    (tmp_path / "videos/a b/x.mp4").symlink_to(video)
    return tmp_path


def test_a_mask_labels_the_frame_that_is_shown_at_its_time(root: Path, video: Path) -> None:
    for name, value in (("0.2", 1), ("1.9375", 2), ("2", 3), ("3.55", 4), ("11.9375", 5)):
        write_png(root / f"masks/a b/x/{name}.png", _mask(value))
    (source,) = _list(root)
    warnings: list[str] = []
    rows = list(prepare_rows(source, data_config("labelled", root), warnings))
    assert [r.clip_id for r in rows] == [f"labelled/videos/a b/x.mp4@{ms}" for ms in (0, 7000)]
    assert rows[0].frame_time_s == pytest.approx([0.2, 1.9375, 2, 3.55, 4.9375])
    shown = decode_video(
        video, size_px=(SIZE_PX, SIZE_PX), sampling=Sampling.TIME, times_s=(0.2, 1.9375, 2.0, 3.55)
    )
    assert np.array_equal(rows[0].frames, shown.frames[:5])
    usual = decode_video(video, size_px=(SIZE_PX, SIZE_PX), sampling=Sampling.TIME)
    assert not np.array_equal(shown.frames[0], usual.frames[0])
    assert rows[0].mask_valid.tolist() == [True, True, True, True, False]
    assert rows[1].mask_valid.tolist() == [False] * 4 + [True]
    for k, value in enumerate((1, 2, 3, 4)):
        wanted = resize_mask((_mask(value) > 0).astype(np.uint8), (SIZE_PX, SIZE_PX))
        assert np.array_equal(rows[0].masks[k], wanted)
    assert rows[1].masks[4].mean() == pytest.approx(50 / 80, abs=0.02)
    assert warnings == []


def test_masks_that_no_frame_is_sampled_for_are_told(root: Path) -> None:
    for name in ("0", "0.9375", "99"):
        write_png(root / f"masks/a b/x/{name}.png", _mask(1))
    (source,) = _list(root)
    warnings: list[str] = []
    rows = list(prepare_rows(source, data_config("labelled", root), warnings))
    assert [int(r.mask_valid.sum()) for r in rows] == [1]
    late, surplus = warnings
    assert late.endswith("masks that lie after its last whole second: 1, first the one at 99 s")
    assert (
        "share a second with another, and one a second is used: 1, first the one at 0 s" in surplus
    )
    for name in ("0", "0.9375"):
        (root / f"masks/a b/x/{name}.png").unlink()
    (source,) = _list(root)
    with pytest.raises(MediaError, match="no mask within its whole seconds"):
        prepare_clip(source, data_config("labelled", root))


def test_of_several_masks_in_a_second_the_one_nearest_to_its_end_is_taken(root: Path) -> None:
    for name, value in (("0.6", 1), ("0.9", 2), ("0.1", 4), ("1.2", 3)):
        write_png(root / f"masks/a b/x/{name}.png", _mask(value))
    (row,) = _rows(root)
    assert row.mask_valid.tolist() == [True, True] + [False] * 3
    assert row.frame_time_s[:2] == pytest.approx([0.9, 1.2])
    assert row.masks[0].mean() == pytest.approx(20 / 80, abs=0.02)


def test_a_split_that_got_no_video_is_told(tmp_path: Path) -> None:
    touch(tmp_path, *(f"videos/{k}.mp4" for k in range(3)), *(f"masks/{k}/1.png" for k in range(3)))
    (note,) = metadata_notes(_list(tmp_path))
    assert "no video fell to" in note
    labels = "video,split\n" + "".join(f"{k}.mp4,train\n" for k in range(3))
    (tmp_path / "labels.csv").write_text(labels)
    assert metadata_notes(_list(tmp_path)) == {}


def test_what_the_platform_writes_beside_masks_is_no_mask(tmp_path: Path) -> None:
    touch(tmp_path, "videos/x.mp4", "masks/x.mp4/png/000001.png", "masks/x.mp4/commit.json")
    touch(tmp_path, "masks/report.json")
    (clip,) = _list(tmp_path)
    assert clip.mask_track is None
    assert metadata_notes([clip]) == {}


def test_a_linked_folder_is_followed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    write_png(root / "masks/a b/x/1.png", _mask(1))
    other = tmp_path_factory.mktemp("linked")
    (other / "videos").symlink_to(root / "videos")
    (other / "masks").symlink_to(root / "masks")
    assert [c.clip_id for c in _list(other)] == ["labelled/videos/a b/x.mp4"]


def test_every_mask_is_in_one_row_where_windows_overlap(root: Path) -> None:
    for k in range(12):
        write_png(root / f"masks/a b/x/{k}.9375.png", _mask(1))
    rows = _rows(root)
    assert [int(r.mask_valid.sum()) for r in rows] == [5, 5, 2]
    times = [t for r in rows for t in r.frame_time_s[r.mask_valid]]
    assert times == pytest.approx([k + 15 / 16 for k in range(12)], abs=1e-6)


@pytest.mark.parametrize("corrected", [False, True])
def test_predictions_of_the_platform_are_read_back(root: Path, corrected: bool) -> None:
    rng = np.random.default_rng(0)
    masks = [(rng.random(NATIVE) > 0.7).astype(np.uint8) for _ in range(12)]
    track = MaskTrack.from_masks(
        masks,
        time_s=[k + 15 / 16 for k in range(12)],
        size_px=NATIVE,
        duration_s=12.0,
        class_names=("background", "sounding"),
        warnings=[],
    )
    folder = root / "masks" / folder_name("a b/x.mp4")
    folder.mkdir(parents=True)
    kinds = [OutputKind.RLE_JSON, OutputKind.PNG] if corrected else [OutputKind.RLE_JSON]
    write_outputs(track, folder, kinds, video_path="")
    if corrected:  # a picture that was edited counts, not the JSON beside it
        masks[3] = _mask(2) // 255
        write_png(folder / "png/000003.png", _mask(2))
    rows = _rows(root, image_size_px=NATIVE[0])
    found = np.concatenate([r.masks[r.mask_valid] for r in rows])
    wanted = [resize_mask(m, (NATIVE[0], NATIVE[0])) for m in masks]
    assert np.array_equal(found, np.stack(wanted))


@pytest.mark.parametrize("name", ["a%b.mp4", "a:b?.mp4", "é [1] =,.mp4", "x.tar.mp4"])
def test_folders_of_the_platform_are_found_for_any_name(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"videos/sub/{name}", f"masks/{folder_name(f'sub/{name}')}/masks.json")
    (clip,) = _list(tmp_path)
    assert clip.clip_id == f"labelled/videos/sub/{name}"
    assert clip.mask_track is not None
    assert metadata_notes([clip]) == {}


@pytest.mark.parametrize(
    "name", ["x.json", "x.mp4.json", "x/masks.json", "x.mp4/masks.json", "x/y.json"]
)
def test_json_of_one_video_is_found(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "videos/x.mp4", f"masks/{name}")
    (clip,) = _list(tmp_path)
    assert clip.mask_track == str(tmp_path / "masks" / name)


@pytest.mark.parametrize(
    "text", ["{", "[" * 100_000, "[]", '{"masks": 1, "height": 2, "width": 3}']
)
def test_json_that_holds_no_masks_is_named(root: Path, text: str) -> None:
    (root / "masks/a b").mkdir(parents=True)
    (root / "masks/a b/x.json").write_text(text)
    (source,) = _list(root)
    with pytest.raises(MediaError, match=r"masks/a b/x\.json: "):
        prepare_clip(source, data_config("labelled", root))


def test_class_names_make_index_masks(root: Path) -> None:
    (root / "label2idx.json").write_text('{"background": 1, "dog": 2, "cat": 3}')
    mask = np.full(NATIVE, 2, np.uint8)
    mask[0] = 255
    write_png(root / "masks/a b/x/0.9.png", mask)
    (source,) = _list(root)
    assert DATASETS["labelled"].class_names(data_config("labelled", root))[2] == "cat"
    (row,) = prepare_clip(source, data_config("labelled", root))
    assert set(np.unique(row.masks[0])) == {2, 255}
    write_png(root / "masks/a b/x/0.9.png", np.full(NATIVE, 3, np.uint8))
    with pytest.raises(MediaError, match=r"0\.9\.png holds class 3; the data set has 3"):
        prepare_clip(source, data_config("labelled", root))


def test_labels_give_split_and_categories(tmp_path: Path) -> None:
    touch(tmp_path, "videos/a.mp4", "videos/s/b.MKV", "masks/a/1.png", "masks/s/b/1.png")
    rows = ['a.mp4,val,"dog; café cat"', "s/b,,", "gone.mp4,train,dog"]
    (tmp_path / "labels.csv").write_text("video,split,categories\n" + "\n".join(rows) + "\n")
    a, b, gone = _list(tmp_path)
    assert (a.split, a.categories) == ("val", ("dog", "café cat"))
    assert (b.split, b.categories) == (seeded_split("s/b", 0), ())
    assert gone.problem == "labels.csv lists gone.mp4, but videos/gone.mp4 is not there"
    (tmp_path / "labels.csv").write_text("video,split\na,test\na.mp4,val\n")
    with pytest.raises(DataError, match=r"labels\.csv lists a\.mp4 more than once"):
        _list(tmp_path)
    (tmp_path / "labels.csv").write_text("video,split\na,holdout\n")
    assert "split 'holdout' is not one of" in str(_list(tmp_path)[0].problem)


def test_a_missing_split_depends_on_the_source_and_the_seed_alone(tmp_path: Path) -> None:
    names = [f"v{k}" for k in range(300)]
    touch(tmp_path, *(f"videos/{n}.mp4" for n in names), *(f"masks/{n}/1.png" for n in names))
    before = {c.video_id: c.split for c in _list(tmp_path)}
    counts = Counter(before.values())
    assert counts["train"] == pytest.approx(240, abs=25)
    assert counts["val"] == pytest.approx(30, abs=15)
    assert counts["test"] == pytest.approx(30, abs=15)
    touch(tmp_path, "videos/a new one.mp4", "masks/a new one/1.png")
    after = {c.video_id: c.split for c in _list(tmp_path)}
    assert {k: after[k] for k in before} == before
    assert {c.video_id: c.split for c in _list(tmp_path, split_seed=1)} != after


def test_clips_of_one_source_share_their_split(tmp_path: Path) -> None:
    names = [f"v{k}" for k in range(40)]
    touch(tmp_path, *(f"videos/{n}.mp4" for n in names), *(f"masks/{n}/1.png" for n in names))
    rows = [f"{n},film{k // 8}" for k, n in enumerate(names)]
    (tmp_path / "labels.csv").write_text("video,source\n" + "\n".join(rows) + "\n")
    found = {(c.video_id, c.split) for c in _list(tmp_path)}
    assert len(found) == 5


def test_what_has_no_counterpart_is_left_out_and_counted(tmp_path: Path) -> None:
    touch(tmp_path, "videos/a.mp4", "videos/bare.mp4", "masks/a/1.png", "masks/typo/1.png")
    clips = _list(tmp_path)
    assert [c.clip_id for c in clips] == ["labelled/videos/a.mp4"]
    assert list(metadata_notes(clips)) == [
        "1 places in masks/ belong to no video, first masks/typo",
        "1 videos have no masks and are left out, first bare.mp4",
    ]


def test_a_name_that_is_no_time_is_the_problem_of_its_clip(tmp_path: Path) -> None:
    touch(tmp_path, "videos/a.mp4", "masks/a/1.png", "masks/a/frame_1.png")
    (clip,) = _list(tmp_path)
    assert str(clip.problem).startswith("masks/a/frame_1.png: the name of a mask must be its time")


def test_without_masks_there_is_nothing_to_list(tmp_path: Path) -> None:
    touch(tmp_path, "videos/a.mp4", "masks/b/1.png")
    with pytest.raises(DataError, match="no mask for any of the 1 videos"):
        _list(tmp_path)


def test_a_corrected_mask_changes_the_source(tmp_path: Path) -> None:
    touch(tmp_path, "videos/a.mp4", "masks/a/1.png")
    (before,) = _list(tmp_path)
    (tmp_path / "masks/a/1.png").write_bytes(b"other")
    (after,) = _list(tmp_path)
    assert after != before
    assert replace(after, files_hash=before.files_hash) == before


def test_json_and_pictures_that_differ_in_number_are_refused(root: Path) -> None:
    track = MaskTrack.from_masks(
        [_mask(1) // 255],
        time_s=[0.9375],
        size_px=NATIVE,
        duration_s=1.0,
        class_names=("background", "sounding"),
        warnings=[],
    )
    folder = root / "masks/a b/x.mp4"
    folder.mkdir(parents=True)
    write_outputs(track, folder, [OutputKind.RLE_JSON, OutputKind.PNG], video_path="")
    write_png(folder / "png/000001.png", _mask(1))
    (source,) = _list(root)
    with pytest.raises(MediaError, match=r"has 1 masks, but 2 pictures lie beside it"):
        prepare_clip(source, data_config("labelled", root))


def test_real_videos_with_their_masks_are_prepared(real_data: Path, tmp_path: Path) -> None:
    mini = real_data / "avsbench-mini/Single-source/s4_data"
    videos = sorted((mini / "raw_videos/val").rglob("*.mp4"))[:4]
    (tmp_path / "videos").mkdir()
    for video in videos:
        (tmp_path / "videos" / video.name).symlink_to(video)
        folder = tmp_path / "masks" / video.stem
        folder.mkdir(parents=True)
        for k in range(5):
            name = f"gt_masks/val/{video.parent.name}/{video.stem}/{video.stem}_{k + 1}.png"
            (folder / f"{k}.9375.png").symlink_to(mini / name)
    rows = _rows(tmp_path)
    assert len(rows) == 4
    assert all(r.mask_valid.all() and r.masks.any() for r in rows)
