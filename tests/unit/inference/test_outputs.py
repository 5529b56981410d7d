"""What a segmented video is written as, and where."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path, PurePosixPath

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from made_clips import write_video
from PIL import Image

from avs.inference.outputs import OutputKind, folder_name, write_outputs
from avs.inference.track import MaskTrack
from avs.media.audio import read_audio
from avs.media.masks import Rle, decode_rle
from avs.media.video import Sampling, decode_video, probe

NASTY = [
    "..",
    ".",
    "../../etc/passwd",
    "/etc/passwd",
    "a/../b.mp4",
    "a//b.mp4",
    "",
    "a\\..\\b.mp4",
    "C:\\x.mp4",
    "%2E%2E/x",
    ".hidden",
    "trailing.",
    "trailing ",
    "a\nb\x00c\x7f.mp4",
    'q?u*o"t<e>|.mp4',
    "bad\udcff.mp4",
    "é" * 150 + ".mp4",
    "x" * 300,
    "x" * 301,
    "%" * 120,
]


@pytest.mark.parametrize("name", NASTY)
def test_the_folder_of_a_nasty_name_is_inside_and_can_be_made(name: str, tmp_path: Path) -> None:
    escaped = folder_name(name)
    parts = escaped.split("/")
    assert len(parts) == len(name.split("/"))
    assert all(p not in ("", ".", "..") and len(p.encode()) <= 200 for p in parts)
    assert not PurePosixPath(escaped).is_absolute()
    folder = tmp_path / "out" / escaped
    folder.mkdir(parents=True)
    assert (tmp_path / "out").resolve() in folder.resolve().parents
    assert sum(len(names) for _, names, _ in os.walk(tmp_path / "out")) == len(parts)


@pytest.mark.parametrize("name", ["a b.mp4", "x/y=1,[2].mp4", "café/-v.mkv", "it's #1 & $5.mp4"])
def test_a_harmless_name_is_left_as_it_is(name: str) -> None:
    assert folder_name(name) == name


def test_different_names_get_different_folders() -> None:
    tricky = ["%2E%2E", "%2E.", "%252E%2E", "a%3Ab", "a:b", "%00", "\x00", "x" * 184, "x" * 200]
    names = {*NASTY, *tricky, "a/b", "a%2Fb", "a\\b", "a%5Cb", "a.", "a%2E"}
    assert len({folder_name(n) for n in names}) == len(names)
    assert len({folder_name(n).lower() for n in names}) == len(names)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "a b.mp4"
    write_video(path, duration_s=3, size_px=(48, 80))
    return path


@pytest.fixture
def track() -> MaskTrack:
    """A square that moves right by 20 px a second, at 48 x 80."""
    masks = np.zeros((3, 48, 80), np.uint8)
    for k in range(3):
        masks[k, 10:30, 20 * k : 20 * k + 20] = 1
    return MaskTrack.from_masks(
        masks,
        time_s=[k + 15 / 16 for k in range(3)],
        size_px=(48, 80),
        duration_s=3.0,
        class_names=("background", "sounding"),
        warnings=[],
    )


def test_each_kind_is_written_and_named(video: Path, track: MaskTrack, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    names = write_outputs(track, folder, list(OutputKind), video_path=str(video))
    assert names == [
        "masks.json",
        "masks.parquet",
        "png/000000.png",
        "png/000001.png",
        "png/000002.png",
        "masks.npz",
        "overlay.mp4",
        "thumbnails.jpg",
        "matte.mov",
    ]
    found = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert found == sorted(names)


@pytest.mark.parametrize("kind", list(OutputKind))
def test_only_what_is_asked_for_is_written(
    video: Path, track: MaskTrack, tmp_path: Path, kind: OutputKind
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    names = write_outputs(track, folder, [kind], video_path=str(video))
    written = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    assert sorted(written) == names
    assert {n.split("/")[0] for n in names} == {
        {
            "rle_json": "masks.json",
            "rle_parquet": "masks.parquet",
            "png": "png",
            "npz": "masks.npz",
            "overlay": "overlay.mp4",
            "thumbnails": "thumbnails.jpg",
            "matte": "matte.mov",
        }[kind.value]
    }


def test_png_and_json_hold_the_masks(video: Path, track: MaskTrack, tmp_path: Path) -> None:
    kinds = [OutputKind.PNG, OutputKind.RLE_JSON]
    write_outputs(track, tmp_path, kinds, video_path=str(video))
    plain = json.loads((tmp_path / "masks.json").read_text())
    assert plain == track.to_json()
    for k in range(3):
        image = Image.open(tmp_path / f"png/{k:06d}.png")
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), track.mask(k))
        assert np.array_equal(decode_rle(plain["masks"][k]["objects"][0]["rle"]), track.mask(k))


def test_the_overlay_shows_each_mask_in_its_second_and_keeps_the_sound(
    video: Path, track: MaskTrack, tmp_path: Path
) -> None:
    write_outputs(track, tmp_path, [OutputKind.OVERLAY], video_path=str(video))
    overlay = tmp_path / "overlay.mp4"
    info = probe(overlay)
    assert (info.height_px, info.width_px, info.num_frames) == (48, 80, 24)
    heard, original = read_audio(overlay), read_audio(video)
    assert heard is not None
    assert original is not None
    assert np.abs(heard[:40000] - original[:40000]).max() < 0.01
    painted = decode_video(overlay, size_px=None, sampling=Sampling.TIME).frames.astype(int)
    plain = decode_video(video, size_px=None, sampling=Sampling.TIME).frames.astype(int)
    for k in range(3):
        change = np.abs(painted[k] - plain[k]).mean(-1)
        inside = track.mask(k) > 0
        assert change[inside].mean() > 5 * change[~inside].mean()


def test_npz_holds_the_masks_and_is_read_without_pickle(
    video: Path, track: MaskTrack, tmp_path: Path
) -> None:
    write_outputs(track, tmp_path, [OutputKind.NPZ], video_path=str(video))
    data = (tmp_path / "masks.npz").read_bytes()
    with np.load(tmp_path / "masks.npz", allow_pickle=False) as found:
        assert sorted(found.files) == ["class_names", "masks", "time_s"]
        assert (found["masks"].dtype, found["time_s"].dtype) == (np.uint8, np.float64)
        assert np.array_equal(found["masks"], np.stack([track.mask(k) for k in range(3)]))
        assert found["time_s"].tolist() == [k + 15 / 16 for k in range(3)]
        assert found["class_names"].tolist() == ["background", "sounding"]
    assert len(data) < 3 * 48 * 80 / 2, "it is compressed"
    write_outputs(track, tmp_path, [OutputKind.NPZ], video_path=str(video))
    assert (tmp_path / "masks.npz").read_bytes() == data


def test_npz_of_no_mask(video: Path, tmp_path: Path) -> None:
    empty = MaskTrack.empty(("background", "é"))
    empty.size_px = (4, 6)
    write_outputs(empty, tmp_path, [OutputKind.NPZ], video_path=str(video))
    with np.load(tmp_path / "masks.npz", allow_pickle=False) as found:
        assert (found["masks"].shape, found["time_s"].shape) == ((0, 4, 6), (0,))
        assert found["class_names"].tolist() == ["background", "é"]


def test_the_matte_is_opaque_where_something_sounds(
    video: Path, track: MaskTrack, tmp_path: Path
) -> None:
    write_outputs(track, tmp_path, [OutputKind.MATTE], video_path=str(video))
    with av.open(str(tmp_path / "matte.mov")) as container:
        assert [s.codec.canonical_name for s in container.streams] == ["qtrle"]
        frames = list(container.decode(video=0))
    assert [float(f.time or 0) for f in frames] == pytest.approx([n / 8 for n in range(24)])
    for n, frame in enumerate(frames):
        argb = frame.to_ndarray(format="argb")
        assert np.array_equal(argb[..., 0] == 255, track.mask(n // 8) > 0)
        assert set(np.unique(argb).tolist()) == {0, 255}


def test_a_table_holds_the_run_lengths_of_the_json(
    video: Path, track: MaskTrack, tmp_path: Path
) -> None:
    track.masks[1].rles.clear()  # a second in which nothing sounds
    write_outputs(track, tmp_path, [OutputKind.RLE_PARQUET], video_path=str(video))
    table = pq.read_table(tmp_path / "masks.parquet")
    assert table.column("mask").to_pylist() == [0, 2]
    assert table.column("time_s").to_pylist() == [15 / 16, 2 + 15 / 16]
    assert table.column("category").to_pylist() == ["sounding", "sounding"]
    assert table.column("area").to_pylist() == pytest.approx([400 / (48 * 80)] * 2)
    for row in table.to_pylist():
        rle = Rle(size=[row["height"], row["width"]], counts=row["counts"])
        assert np.array_equal(decode_rle(rle), track.mask(row["mask"]))
    assert table.schema.metadata[b"num_masks"] == b"3"


def test_thumbnails_show_moments_of_the_video_with_their_masks(
    video: Path, track: MaskTrack, tmp_path: Path
) -> None:
    bare = replace(track, masks=[replace(mask, rles={}) for mask in track.masks])
    strips = []
    for name, given in (("with", track), ("without", bare)):
        (tmp_path / name).mkdir()
        write_outputs(given, tmp_path / name, [OutputKind.THUMBNAILS], video_path=str(video))
        strips.append(np.asarray(Image.open(tmp_path / name / "thumbnails.jpg")).astype(int))
    assert strips[0].shape == (144, 3 * 240, 3)
    drawn = np.abs(strips[0] - strips[1]).max(axis=2) > 40
    middles = [np.argwhere(drawn[:, 240 * k : 240 * k + 240])[:, 1].mean() for k in range(3)]
    assert middles == pytest.approx([30, 90, 150], abs=6)  # the square moves, three times as large
