"""A data set of any size for benchmarks: a few videos, linked many times into the S4 layout."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from avs.datasets.folder import VIDEO_SUFFIXES
from avs.datasets.synthetic import Layout, SyntheticConfig, clip_plan, write_clip
from avs.errors import DataError
from avs.media.containers import check_container
from avs.media.video import Sampling, decode_video

__all__ = ["link_clips", "synthetic_videos", "usable_videos"]

_CATEGORY = "linked"
_SIZE_PX = 224
_NUM_MASKS = 5


def synthetic_videos(folder: Path, *, count: int = 16) -> list[Path]:
    """Videos of 5 s at 640 x 360 and 24 frames a second, like many of AVSBench."""
    config = SyntheticConfig(
        layout=Layout.MS3,
        num_train=0,
        num_val=0,
        num_test=count,
        size_px=360,
        width_px=640,
        fps=24,
        seed=7,
    )
    done = folder / "done"
    if not done.exists():
        for spec in clip_plan(config):
            write_clip(folder, spec, config)
        done.touch()
    return sorted(folder.rglob("*.mp4"))


def usable_videos(folder: str) -> list[Path]:
    """The mp4 videos below ``folder`` that decode with sound.

    Raises:
        DataError: there is none.
    """
    found = sorted(
        p for p in Path(folder).rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and _decodes(p)
    )
    if not found:
        raise DataError(f"videos={folder} holds no video with sound that can be decoded.")
    return found


def _decodes(path: Path) -> bool:
    try:
        check_container(path)
        video = decode_video(
            str(path), size_px=(32, 32), sampling=Sampling.OFFICIAL, num_frames=_NUM_MASKS
        )
    except Exception:  # the benchmark wants clips that all contenders can read
        return False
    return video.samples is not None and len(video.frames) == _NUM_MASKS


def link_clips(videos: list[Path], root: Path, *, num_clips: int) -> None:
    """Write an S4 tree of ``num_clips`` test clips below ``root``; videos are links, masks too."""
    data = root / "s4_data"
    mask = root / "mask.png"
    mask.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.eye(_SIZE_PX, dtype=np.uint8) * 255).save(mask)
    rows = [["name", "start_time", "category", "split"]]
    for index in range(num_clips):
        name = f"clip{index:06d}"
        rows.append([name, "0", _CATEGORY, "test"])
        _link(videos[index % len(videos)], data / "raw_videos" / "test" / _CATEGORY / f"{name}.mp4")
        for k in range(1, _NUM_MASKS + 1):
            _link(mask, data / "gt_masks" / "test" / _CATEGORY / name / f"{name}_{k}.png")
    with (root / "s4_meta_data.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _link(target: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target.resolve())
