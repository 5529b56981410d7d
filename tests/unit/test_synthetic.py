"""The made-up clips: deterministic, readable, and not solvable without listening."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest

from avs.datasets.synthetic import (
    KINDS,
    ClipSpec,
    Layout,
    SyntheticConfig,
    clip_plan,
    write_clip,
    write_synthetic,
)
from avs.media.audio import log_mel
from avs.media.masks import read_mask
from avs.media.video import Sampling, decode_video

SAMPLE_TIMES_S = [(8 * k + 7) / 8 for k in range(5)]


def _config(layout: Layout = Layout.MS3, **changes: object) -> SyntheticConfig:
    values: dict[str, object] = {"layout": layout, "num_train": 3, "num_val": 1, "num_test": 1}
    return SyntheticConfig(**{**values, **changes})  # type: ignore[arg-type]


def _digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def _rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_ms3_files_have_the_official_layout(tmp_path: Path) -> None:
    config = _config()
    write_synthetic(tmp_path, config)
    specs = clip_plan(config)
    expected = {"ms3_meta_data.csv"}
    for spec in specs:
        expected.add(f"ms3_data/raw_videos/{spec.name}.mp4")
        expected |= {
            f"ms3_data/gt_masks/{spec.split}/{spec.name}/{spec.name}_{k}.png" for k in range(1, 6)
        }
    assert set(_digests(tmp_path)) == expected
    rows = _rows(tmp_path / "ms3_meta_data.csv")
    assert rows[0] == ["name", "split", "category"]
    assert rows[1:] == [[spec.name, spec.split, spec.category] for spec in specs]


def test_s4_files_have_the_official_layout(tmp_path: Path) -> None:
    config = _config(Layout.S4)
    write_synthetic(tmp_path, config)
    expected = {"s4_meta_data.csv"}
    for spec in clip_plan(config):
        place = f"{spec.split}/{spec.category}"
        expected.add(f"s4_data/raw_videos/{place}/{spec.name}.mp4")
        expected |= {
            f"s4_data/gt_masks/{place}/{spec.name}/{spec.name}_{k}.png"
            for k in range(1, 2 if spec.split == "train" else 6)
        }
    assert set(_digests(tmp_path)) == expected
    assert _rows(tmp_path / "s4_meta_data.csv")[0] == ["name", "start_time", "category", "split"]


def test_a_clip_depends_on_seed_split_and_index_alone(tmp_path: Path) -> None:
    few, many = _config(), _config(num_train=7, num_val=2)
    write_synthetic(tmp_path / "few", few)
    specs = [spec for spec in clip_plan(many) if spec in clip_plan(few)]
    assert specs == clip_plan(few)
    for spec in reversed(specs):
        write_clip(tmp_path / "again", spec, many)
    few_files, again = _digests(tmp_path / "few"), _digests(tmp_path / "again")
    few_files.pop("ms3_meta_data.csv")
    assert again == few_files
    write_clip(tmp_path / "other", clip_plan(_config(seed=1))[0], _config(seed=1))
    assert not set(_digests(tmp_path / "other").values()) & set(few_files.values())


def test_several_kinds_are_visible_and_only_some_sound() -> None:
    specs = clip_plan(_config(num_train=200, num_val=50, num_test=50))
    assert {len(spec.visible) for spec in specs} == {2, 3}
    for spec in specs:
        assert len(set(spec.visible)) == len(spec.visible)
        for time_s in SAMPLE_TIMES_S:
            assert set(spec.sounding(time_s)) < set(spec.visible)
    numbers = [len(spec.sounding(0.0)) for spec in specs]
    assert {0, 1, 2} == set(numbers)
    assert numbers.count(1) > 4 * numbers.count(2)


@pytest.mark.parametrize(("switch_ratio", "silent_ratio"), [(0.15, 0.1), (0.0, 0.0), (0.5, 0.5)])
def test_shares_of_switched_and_silent_clips(switch_ratio: float, silent_ratio: float) -> None:
    config = _config(num_train=200, switch_ratio=switch_ratio, silent_ratio=silent_ratio)
    specs = [spec for spec in clip_plan(config) if spec.split == "train"]
    switched = [spec for spec in specs if len(spec.schedule) == 2]
    assert len(switched) == pytest.approx(200 * switch_ratio, abs=3)
    assert sum(not spec.category for spec in specs) == pytest.approx(200 * silent_ratio, abs=3)
    for spec in switched:
        assert 2 <= spec.schedule[1][0] <= 3
        assert not set(spec.sounding(0.0)) & set(spec.sounding(4.9))


def test_one_kind_sounds_throughout_in_s4() -> None:
    for spec in clip_plan(_config(Layout.S4, num_train=100)):
        assert spec.category in KINDS
        assert [spec.sounding(t) for t in SAMPLE_TIMES_S] == [(spec.category,)] * 5
        assert len(spec.visible) in (2, 3)


def _masks(root: Path, spec: ClipSpec) -> np.ndarray:
    folder = root / "ms3_data" / "gt_masks" / spec.split / spec.name
    return np.stack([read_mask(folder / f"{spec.name}_{k}.png") for k in range(1, 6)])


def test_masks_show_what_sounds_in_the_sampled_frames(tmp_path: Path) -> None:
    """The colours under a mask are those of the kinds that sound, and of no other."""
    config = _config(num_train=12, switch_ratio=0.3, silent_ratio=0.2)
    for spec in [spec for spec in clip_plan(config) if spec.split == "train"]:
        write_clip(tmp_path, spec, config)
        path = tmp_path / "ms3_data" / "raw_videos" / f"{spec.name}.mp4"
        video = decode_video(path, size_px=None, sampling=Sampling.OFFICIAL, num_frames=5)
        masks = _masks(tmp_path, spec)
        assert masks.shape == video.frames.shape[:3] == (5, 96, 96)
        assert video.samples is not None
        for frame, mask, time_s in zip(video.frames, masks, video.frame_time_s, strict=True):
            if not spec.sounding(time_s):
                assert not mask.any()
            for kind in spec.visible:
                if kind in spec.sounding(time_s):
                    continue
                assert not (_is_colour_of(kind, frame) & (mask > 0)).sum() > 25


def _is_colour_of(kind: str, frame: np.ndarray) -> np.ndarray:
    """Pixels whose strongest contrast is that of the colour family, in whole numbers."""
    red, green, blue = (frame[..., c].astype(int) for c in range(3))
    return {
        "disc": (red > 150) & (green < 110) & (blue < 110),
        "square": (green > 140) & (red < 110) & (blue < 120),
        "triangle": (blue > 180) & (red < 110),
        "ring": (red > 180) & (green > 150) & (blue < 110),
        "cross": (red > 150) & (blue > 160) & (green < 110),
    }[kind]


def test_silent_clips_are_quiet_and_others_are_not(tmp_path: Path) -> None:
    config = _config(num_train=20)
    specs = clip_plan(config)
    silent = next(spec for spec in specs if not spec.category)
    loud = next(spec for spec in specs if spec.category)
    for spec, is_loud in ((silent, False), (loud, True)):
        write_clip(tmp_path, spec, config)
        path = tmp_path / "ms3_data" / "raw_videos" / f"{spec.name}.mp4"
        samples = decode_video(path, size_px=(8, 8), sampling=Sampling.TIME).samples
        assert samples is not None
        assert (np.abs(samples).mean() > 0.01) == is_loud


def test_timbres_are_told_apart_by_their_log_mel(tmp_path: Path) -> None:
    """The nearest mean spectrum names the kind of a clip it was not computed from."""
    config = _config(Layout.S4, num_train=30, size_px=32)
    spectra, kinds = [], []
    for spec in [spec for spec in clip_plan(config) if spec.split == "train"]:
        write_clip(tmp_path, spec, config)
        path = tmp_path / "s4_data" / "raw_videos" / "train" / spec.category / f"{spec.name}.mp4"
        samples = decode_video(path, size_px=(8, 8), sampling=Sampling.TIME).samples
        assert samples is not None
        columns = log_mel(samples).reshape(-1, 64)
        spectra.append(np.concatenate([columns.mean(0), columns.std(0)]))
        kinds.append(spec.category)
    known, asked = np.array(spectra[:20]), np.array(spectra[20:])
    means = {kind: known[[k == kind for k in kinds[:20]]].mean(0) for kind in KINDS}
    named = [min(KINDS, key=lambda kind: np.abs(s - means[kind]).sum()) for s in asked]
    assert named == kinds[20:]


@pytest.mark.parametrize(
    ("changes", "height", "width"),
    [
        ({"size_px": 64, "width_px": 128}, 64, 128),
        ({"size_px": 32, "fps": 30000 / 1001, "duration_s": 2.0}, 32, 32),
    ],
)
def test_any_size_and_rate(
    tmp_path: Path, changes: dict[str, object], height: int, width: int
) -> None:
    config = _config(num_train=1, num_val=0, num_test=0, **changes)
    spec = clip_plan(config)[0]
    write_clip(tmp_path, spec, config)
    path = tmp_path / "ms3_data" / "raw_videos" / f"{spec.name}.mp4"
    video = decode_video(path, size_px=None, sampling=Sampling.TIME)
    assert video.frames.shape == (int(config.duration_s), height, width, 3)
    masks = list((tmp_path / "ms3_data" / "gt_masks" / "train" / spec.name).iterdir())
    assert len(masks) == int(config.duration_s)


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_train", -1), ("size_px", 31), ("width_px", 33), ("fps", 0.0), ("silent_ratio", 2.0)],
)
def test_wrong_values_are_named(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{key} must .*{value}"):
        _config(**{key: value})
