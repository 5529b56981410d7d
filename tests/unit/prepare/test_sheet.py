"""The contact sheet: a few clips of each split, with their masks and names."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_clips import BINARY, random_clip
from PIL import Image
from prepare_runs import MadeUpSet, content_of, run

from avs.prepare.manifest import ManifestShard
from avs.prepare.records import shard_uri
from avs.prepare.sheet import SHEET, contact_sheet
from avs.schema import IGNORE_INDEX, Clip, ClipFormat, write_clips

FORM = ClipFormat(num_frames=2, height_px=168, width_px=168, class_names=BINARY)
ORANGE = (255, 90, 30)


def _clip(name: str, value: int, *, labelled: bool = True) -> Clip:
    """A grey clip whose second frame alone has ground truth: the left half."""
    clip = random_clip(f"mine/videos/{name}", form=FORM)
    clip.frames[0], clip.frames[1] = value, value + 1
    clip.masks[:] = 0
    clip.masks[1, :, :84] = 1
    clip.mask_valid = np.array([False, labelled])
    return clip


def _sheet(out: Path, *shards: tuple[str, list[Clip]], num_classes: int = 2) -> np.ndarray:
    listed = []
    for number, (split, clips) in enumerate(shards):
        name = f"{number}.parquet"
        (out / "shards").mkdir(parents=True, exist_ok=True)
        write_clips(clips, shard_uri(str(out), name), replace(FORM, num_frames=2))
        listed.append(
            ManifestShard(name=name, split=split, num_rows=len(clips), size_bytes=0, sha256="")
        )
    data = contact_sheet(str(out), listed, num_classes=num_classes)
    return np.asarray(Image.open(io.BytesIO(data)))


def _tile(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    top, left = 8 + row * 212 + 18, 8 + column * 176
    return sheet[top : top + 168, left : left + 168]


def test_a_tile_shows_the_frame_with_ground_truth_and_its_mask(tmp_path: Path) -> None:
    sheet = _sheet(tmp_path, ("train", [_clip("a", 40)]), ("val", [_clip("b", 80)]))
    for row, value in enumerate((41, 81)):
        tile = _tile(sheet, row, 0)
        assert (tile[:, 90:] == value).all()
        tinted = np.rint(0.7 * value + 0.3 * np.array(ORANGE))
        assert np.abs(tile[80, 20].astype(int) - tinted).max() <= 1
        assert (tile[80, 83] > 160).all(axis=-1) or tile[80, 83, 0] > tile[80, 20, 0]


def test_an_unlabelled_clip_shows_its_first_frame_bare(tmp_path: Path) -> None:
    tile = _tile(_sheet(tmp_path, ("all", [_clip("a", 40, labelled=False)])), 0, 0)
    assert (tile == 40).all()


def test_clips_are_spread_over_the_shards_of_a_split(tmp_path: Path) -> None:
    clips = [_clip(str(k), 2 * k, labelled=False) for k in range(12)]
    sheet = _sheet(tmp_path, ("train", clips[:5]), ("train", clips[5:]))
    shown = [int(_tile(sheet, 0, column)[0, 0, 0]) for column in range(6)]
    assert shown == [0, 4, 8, 12, 16, 20]


@pytest.mark.parametrize("name", ["x" * 300, "ä=[1],$é 日本.mp4", "a\nb", ""])
def test_any_name_can_be_drawn(name: str, tmp_path: Path) -> None:
    assert _sheet(tmp_path, ("träin", [_clip(name, 9)])).shape[1] == 8 + 6 * 176


def test_pixels_that_are_not_judged_are_drawn_too(tmp_path: Path) -> None:
    clip = _clip("a", 40)
    clip.masks[1, :, 84:] = IGNORE_INDEX
    tile = _tile(_sheet(tmp_path, ("train", [clip])), 0, 0)
    assert not (tile[:, 90:] == 41).all()


def test_a_run_writes_the_same_sheet_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = MadeUpSet(monkeypatch)
    for name in ("a", "b"):
        run(clips.config(tmp_path / name))
    assert content_of(tmp_path / "a")[SHEET] == content_of(tmp_path / "b")[SHEET]


def test_a_run_without_a_clip_has_an_empty_sheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = MadeUpSet(monkeypatch)
    clips.failing = {source.clip_id for source in clips.sources}
    manifest = run(clips.config(tmp_path))
    assert (manifest.shards, manifest.counts["rejected"]) == ([], 9)
    assert (tmp_path / SHEET).exists()
