"""Overlays keep every frame, its time and the sound; masks hold for their second."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from media_clips import numbered_frames
from numpy.typing import NDArray

from avs.errors import MediaError
from avs.media.audio import read_audio
from avs.media.containers import open_container
from avs.media.drawing import blend_mask, draw_outlines
from avs.media.encoding import write_mp4
from avs.media.render import write_overlay
from avs.media.video import probe


def _frames(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    container, _ = open_container(path)
    with container:
        decoded = list(container.decode(video=0))
        pixels = np.stack([np.asarray(f.to_ndarray(format="rgb24"), np.uint8) for f in decoded])
        return pixels, np.array([f.time for f in decoded])


def _codecs(path: Path) -> list[str]:
    container, _ = open_container(path)
    with container:
        return [stream.codec.canonical_name for stream in container.streams]


def _half_masks(num: int, height: int = 48, width: int = 64) -> list[NDArray[np.uint8]]:
    """Mask k covers the left half when k is even, nothing otherwise."""
    left = np.zeros((height, width), np.uint8)
    left[:, : width // 2] = 1
    return [left if k % 2 == 0 else np.zeros_like(left) for k in range(num)]


def test_blending_tints_the_object_and_draws_its_edge() -> None:
    frame = np.full((40, 60, 3), 100, np.uint8)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:40] = 1
    out = blend_mask(frame, mask)
    assert (out[mask == 0] == 100).all()
    inside, edge = out[20, 30].astype(int), out[10, 30].astype(int)
    assert inside[0] > 150 > 100 > inside[2]
    assert edge.sum() > inside.sum() + 100
    assert (frame == 100).all()
    np.testing.assert_array_equal(blend_mask(frame, np.zeros_like(mask)), frame)


def test_blending_gives_each_class_its_colour() -> None:
    frame = np.zeros((9, 30, 3), np.uint8)
    mask = np.repeat(np.array([[0, 1, 2]], np.uint8), 10, axis=1).repeat(9, axis=0)
    palette = np.array([[0, 0, 0], [200, 0, 0], [0, 0, 200]], np.uint8)
    out = blend_mask(frame, mask, opacity=0.5, palette=palette)
    assert out[4, 15].tolist() == [100, 0, 0]
    assert out[4, 25].tolist() == [0, 0, 100]
    with pytest.raises(ValueError, match="does not fit"):
        blend_mask(frame, mask[1:])


def test_outlines_are_thin_and_lie_within_each_object() -> None:
    frame = np.full((40, 60, 3), 100, np.uint8)
    labels = np.zeros((40, 60), np.uint8)
    labels[5:20, 10:30], labels[5:20, 30:50] = 1, 2
    out = draw_outlines(frame, labels)
    changed = (out != 100).all(axis=2)
    assert (labels[changed] > 0).all()
    assert changed[5, 10:50].all(), "each border"
    assert changed[5:20, 29:31].all(), "the border between two"
    assert not changed[6:19, 11:29].any(), "the inside is left as it is"
    assert (frame == 100).all()


def test_an_overlay_has_the_frames_times_and_sound_of_its_source(
    numbered_mp4: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sub" / "overlay.mp4"
    write_overlay(
        numbered_mp4, out, masks=_half_masks(5), mask_time_s=[k + 15 / 16 for k in range(5)]
    )
    source, source_time_s = _frames(numbered_mp4)
    pixels, time_s = _frames(out)
    assert pixels.shape == source.shape
    np.testing.assert_allclose(time_s, source_time_s, atol=1e-6)
    np.testing.assert_array_equal(read_audio(out), read_audio(numbered_mp4))
    assert _codecs(out) == ["h264", "aac"]
    assert list(out.parent.iterdir()) == [out]


def test_a_mask_holds_for_its_second(numbered_mp4: Path, tmp_path: Path) -> None:
    out = tmp_path / "overlay.mp4"
    write_overlay(
        numbered_mp4, out, masks=_half_masks(5), mask_time_s=[k + 15 / 16 for k in range(5)]
    )
    assert _tinted_frames(numbered_mp4, out) == [*range(8), *range(16, 24), *range(32, 40)]


def test_masks_for_every_frame(numbered_mp4: Path, tmp_path: Path) -> None:
    out = tmp_path / "overlay.mp4"
    times_s = [n / 8 for n in range(40)]
    write_overlay(numbered_mp4, out, masks=_half_masks(40), mask_time_s=times_s, hold_before_s=0.0)
    assert _tinted_frames(numbered_mp4, out) == list(range(0, 40, 2))


def _tinted_frames(source: Path, overlay: Path) -> list[int]:
    difference = np.abs(_frames(overlay)[0].astype(int) - _frames(source)[0])
    left = difference[:, 8:40, 8:24].mean(axis=(1, 2, 3))
    right = difference[:, 8:40, 40:56].mean(axis=(1, 2, 3))
    assert right.max() < 4
    return np.flatnonzero(left > 10).tolist()


def test_masks_of_another_size_are_scaled(numbered_mp4: Path, tmp_path: Path) -> None:
    out = tmp_path / "overlay.mp4"
    small = [mask[::4, ::4] for mask in _half_masks(1)]
    write_overlay(numbered_mp4, out, masks=small, mask_time_s=[15 / 16])
    assert _tinted_frames(numbered_mp4, out) == list(range(40))


def test_no_masks_leave_the_picture_alone(numbered_mp4: Path, tmp_path: Path) -> None:
    out = tmp_path / "overlay.mp4"
    write_overlay(numbered_mp4, out, masks=[], mask_time_s=[])
    assert _tinted_frames(numbered_mp4, out) == []


def test_odd_sizes_are_padded_and_variable_rates_kept(tmp_path: Path) -> None:
    path, out = tmp_path / "odd.mkv", tmp_path / "overlay.mp4"
    times_ms = [0, 40, 130, 900, 1000, 2500]
    with av.open(str(path), mode="w", format="matroska") as container:
        video = container.add_stream("libx264", rate=25)
        assert isinstance(video, VideoStream)
        video.width, video.height, video.pix_fmt = 51, 37, "yuv444p"
        video.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("pcm_s16le", rate=22050, layout="stereo")
        for pixels, time_ms in zip(numbered_frames(6, 37, 51), times_ms, strict=True):
            frame = VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        samples = (np.sin(np.arange(55125) / 10) * 9000).astype(np.int16).repeat(2)[None]
        piece = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
        piece.sample_rate, piece.pts, piece.time_base = 22050, 0, Fraction(1, 22050)
        container.mux([*sound.encode(piece), *sound.encode(None)])
    write_overlay(path, out, masks=_half_masks(1), mask_time_s=[15 / 16])
    pixels, time_s = _frames(out)
    assert pixels.shape == (6, 38, 52, 3)
    np.testing.assert_allclose(time_s, np.array(times_ms) / 1000, atol=1e-3)
    assert _codecs(out) == ["h264", "aac"]
    before, after = read_audio(path), read_audio(out)
    assert before is not None
    assert after is not None
    assert len(after) == pytest.approx(len(before), abs=1600)
    assert np.corrcoef(before[:30000], after[:30000])[0, 1] > 0.98


def test_a_damaged_video_leaves_no_overlay(tmp_path: Path) -> None:
    path, out = tmp_path / "clip.mp4", tmp_path / "overlay.mp4"
    out.write_bytes(b"earlier")
    path.write_bytes(b"#EXTM3U\n")
    with pytest.raises(MediaError, match="playlist"):
        write_overlay(path, out, masks=[], mask_time_s=[])
    assert out.read_bytes() == b"earlier"
    assert sorted(tmp_path.iterdir()) == [path, out]
    with pytest.raises(ValueError, match="1 masks but 0 times"):
        write_overlay(path, out, masks=_half_masks(1), mask_time_s=[])


def test_a_silent_source_gives_a_silent_overlay(tmp_path: Path) -> None:
    path, out = tmp_path / "name = [1], ü.mp4", tmp_path / "a:b 'c'.mp4"
    write_mp4(path, numbered_frames(8), fps=8, samples=None)
    write_overlay(path, out, masks=_half_masks(1), mask_time_s=[15 / 16])
    assert _codecs(out) == ["h264"]


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "sound"),
    [
        ("decord__video_90.mov", None),
        ("interactive-examples__stream-of-water.webm", "aac"),
        ("moviepy__bitmap.mp4", None),
    ],
)
def test_overlays_of_real_clips(clips: Path, tmp_path: Path, name: str, sound: str | None) -> None:
    out = tmp_path / "overlay.mp4"
    info = probe(clips / name)
    mask = np.ones((info.height_px, info.width_px), np.uint8)
    write_overlay(clips / name, out, masks=[mask], mask_time_s=[15 / 16])
    container, _ = open_container(clips / name)
    with container:
        times_s = np.array([frame.time for frame in container.decode(video=0)])
    pixels, out_times_s = _frames(out)
    assert pixels.shape[1] - info.height_px == info.height_px % 2
    assert pixels.shape[2] - info.width_px == info.width_px % 2
    np.testing.assert_allclose(out_times_s - out_times_s[0], times_s - times_s[0], atol=1e-6)
    assert _codecs(out)[1:] == ([sound] if sound else [])


@pytest.mark.real_data
def test_damage_half_way_is_a_media_error(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "overlay.mp4"
    with pytest.raises(MediaError, match="corrupted"):
        write_overlay(clips / "decord__corrupted.mp4", out, masks=[], mask_time_s=[])
    assert not list(tmp_path.iterdir())
