"""Mattes: every frame of the source, opaque exactly where a mask holds; masks of any rate."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from media_clips import add_video, encode_video, numbered_frames, write_clip
from numpy.typing import NDArray

from avs.errors import MediaError
from avs.media.masks import encode_rle
from avs.media.matte import matte_track, write_matte
from avs.media.render import draw_track


def _frames(path: Path) -> tuple[NDArray[np.uint8], list[float]]:
    """argb [N, H, W, 4] and times."""
    with av.open(str(path)) as container:
        assert [s.codec.canonical_name for s in container.streams] == ["qtrle"]
        decoded: list[VideoFrame] = list(container.decode(video=0))
    pixels = np.stack([np.asarray(f.to_ndarray(format="argb"), np.uint8) for f in decoded])
    return pixels, [float(f.time or 0) for f in decoded]


def _bars(num: int, height: int = 48, width: int = 64) -> list[NDArray[np.uint8]]:
    """Mask k covers column k and the one beside it, with class 1 + k."""
    masks = [np.zeros((height, width), np.uint8) for _ in range(num)]
    for k, mask in enumerate(masks):
        mask[:, k : k + 2] = 1 + k
    return masks


@pytest.mark.parametrize("rate", [1, 2, 8])
def test_alpha_is_the_mask_that_holds(numbered_mp4: Path, tmp_path: Path, rate: int) -> None:
    masks, out = _bars(5 * rate), tmp_path / "sub" / "matte.mov"
    times_s = [(k + 15 / 16) / rate for k in range(5 * rate)]
    write_matte(numbered_mp4, out, masks=masks, mask_time_s=times_s, hold_before_s=15 / 16 / rate)
    pixels, shown_s = _frames(out)
    np.testing.assert_allclose(shown_s, np.arange(40) / 8, atol=1e-6)
    for n in range(40):
        wanted = np.where(masks[n * rate // 8] > 0, 255, 0)
        for channel in range(4):
            np.testing.assert_array_equal(pixels[n, :, :, channel], wanted)
    assert list(out.parent.iterdir()) == [out]


def test_nothing_is_opaque_before_the_first_mask(numbered_mp4: Path, tmp_path: Path) -> None:
    out = tmp_path / "matte.mov"
    full = np.ones((6, 8), np.uint8)
    write_matte(numbered_mp4, out, masks=[full], mask_time_s=[2.0], hold_before_s=0.0)
    alpha = _frames(out)[0][..., 0]
    assert not alpha[:16].any()
    assert (alpha[16:] == 255).all(), "another size is scaled"


def test_odd_sizes_rotation_and_variable_rates_are_kept(tmp_path: Path) -> None:
    path, times_ms = tmp_path / "odd.mkv", [0, 40, 130, 900, 1000, 2500]
    with av.open(str(path), mode="w", format="matroska") as container:
        stream = add_video(
            container, fps=25, size_px=(37, 51), pix_fmt="yuv444p", time_base=Fraction(1, 1000)
        )
        frames = numbered_frames(6, 37, 51)
        for packet in encode_video(stream, frames, pts=times_ms, time_base=Fraction(1, 1000)):
            container.mux(packet)
    write_matte(path, tmp_path / "odd.mov", masks=_bars(1, 37, 51), mask_time_s=[15 / 16])
    pixels, times_s = _frames(tmp_path / "odd.mov")
    assert pixels.shape == (6, 37, 51, 4)
    np.testing.assert_allclose(times_s, np.array(times_ms) / 1000, atol=1e-3)
    one = 1 << 16
    turned = write_clip(
        tmp_path / "turned.mp4",
        numbered_frames(4),
        matrix=[0, one, 0, -one, 0, 0, 0, 0, 1 << 30],
    )
    write_matte(turned, tmp_path / "turned.mov", masks=_bars(1, 64, 48), mask_time_s=[15 / 16])
    assert _frames(tmp_path / "turned.mov")[0].shape == (4, 64, 48, 4)


def test_a_damaged_video_leaves_no_matte(tmp_path: Path) -> None:
    path, out = tmp_path / "clip.mp4", tmp_path / "matte.mov"
    write_clip(path, numbered_frames(16))
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        entries = list(container.streams.video[0].index_entries)
    for entry in entries[8:]:
        data[entry.pos : entry.pos + entry.size] = b"\xff" * entry.size
    path.write_bytes(data)
    out.write_bytes(b"earlier")
    with pytest.raises(MediaError, match="the matte cannot be written"):
        write_matte(path, out, masks=[], mask_time_s=[])
    assert out.read_bytes() == b"earlier"
    assert sorted(tmp_path.iterdir()) == [path, out]
    with pytest.raises(ValueError, match="1 masks but 0 times"):
        write_matte(path, out, masks=_bars(1), mask_time_s=[])


def _store(path: Path, masks: list[NDArray[np.uint8]], rate: object) -> str:
    """A ``masks.json``; a rate of None is that of files from before there were rates."""
    step = rate if isinstance(rate, int) and rate else 1
    plain = {
        "height": 48,
        "width": 64,
        "classes": ["background", "sounding"],
        "masks": [
            {
                "time_s": (k + 15 / 16) / step,
                "objects": [{"category": "sounding", "rle": encode_rle(mask > 0)}],
            }
            for k, mask in enumerate(masks)
        ],
    }
    path.write_text(json.dumps(plain if rate is None else {**plain, "masks_per_s": rate}))
    return str(path)


@pytest.mark.parametrize("rate", [None, 1, 4])
def test_stored_masks_hold_for_their_part_of_a_second(
    numbered_mp4: Path, tmp_path: Path, rate: int | None
) -> None:
    step, target = rate or 1, str(tmp_path / "matte.mov")
    masks = _bars(5 * step)
    track = _store(tmp_path / "masks.json", masks, rate)
    assert matte_track(numbered_mp4, track=track, target=target) == 5 * step
    alpha = _frames(Path(target))[0][..., 0]
    for n in range(40):
        np.testing.assert_array_equal(alpha[n] > 0, masks[n * step // 8] > 0)


def test_the_overlay_holds_masks_as_long_as_the_matte(numbered_mp4: Path, tmp_path: Path) -> None:
    left = np.zeros((48, 64), np.uint8)
    left[:, :32] = 1
    masks = [left * (k % 2) for k in range(20)]
    out = tmp_path / "overlay.mp4"
    draw_track(numbered_mp4, track=_store(tmp_path / "m.json", masks, 4), target=str(out))
    with av.open(str(out)) as drawn, av.open(str(numbered_mp4)) as source:
        change = [
            np.abs(a.to_ndarray(format="rgb24").astype(int) - b.to_ndarray(format="rgb24")).mean()
            for a, b in zip(drawn.decode(video=0), source.decode(video=0), strict=True)
        ]
    assert [n for n in range(40) if change[n] > 8] == [n for n in range(40) if n // 2 % 2]


@pytest.mark.parametrize("rate", [0, 121, 2.5, "native", True])
def test_a_rate_that_is_none_is_told(numbered_mp4: Path, tmp_path: Path, rate: object) -> None:
    track = _store(tmp_path / "masks.json", _bars(1), rate)
    with pytest.raises(MediaError, match="masks_per_s="):
        matte_track(numbered_mp4, track=track, target=str(tmp_path / "x.mov"))
