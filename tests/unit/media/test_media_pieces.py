"""Videos in pieces: the same windows as of the whole, with the memory of a piece."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from media_clips import (
    add_sound,
    add_video,
    encode_sound,
    encode_video,
    frame_numbers,
    mux_in_order,
    numbered_frames,
)

from avs.errors import MediaError
from avs.media import pieces
from avs.media.pieces import MediaPart, MediaWindow, decode_pieces, media_windows, part_of
from avs.media.video import Sampling, decode_video

RATE_HZ = 16000


def _part(first: int, count: int, sound_s: float) -> MediaPart:
    """Seconds ``first`` to ``first + count`` of a video whose sound ends after ``sound_s``."""
    samples = np.arange(first * RATE_HZ, round(min(sound_s, first + count) * RATE_HZ))
    return MediaPart(
        frames=np.arange(first, first + count, dtype=np.uint8)[:, None, None, None],
        frame_time_s=np.arange(first, first + count) + 15 / 16,
        samples=samples.astype(np.float32) if len(samples) else None,
    )


def _same(one: MediaWindow, other: MediaWindow) -> bool:
    silence = np.zeros(len(one.frames) * RATE_HZ, np.float32)
    sounds = [silence if w.sound is None else w.sound for w in (one, other)]
    return (
        one.window == other.window
        and np.array_equal(one.frames, other.frames)
        and np.array_equal(one.frame_time_s, other.frame_time_s)
        and np.array_equal(*sounds)
    )


@pytest.mark.parametrize("num_frames", [1, 2, 4, 5, 6, 9, 10, 11, 23])
@pytest.mark.parametrize("window_frames", [1, 2, 5])
def test_windows_do_not_depend_on_the_pieces(num_frames: int, window_frames: int) -> None:
    for sound_s in (0.0, 3.3, num_frames / 2, num_frames + 0.7):
        whole = list(media_windows([_part(0, num_frames, sound_s)], window_frames=window_frames))
        kept = [int(w.frames[k].item()) for w in whole for k in w.window.new]
        assert kept == list(range(num_frames))
        for windows_a_piece in (1, 2, 3):
            length = windows_a_piece * window_frames
            parts = [
                _part(first, min(length, num_frames - first), sound_s)
                for first in range(0, num_frames, length)
            ]
            found = list(media_windows(parts, window_frames=window_frames))
            assert len(found) == len(whole)
            assert all(map(_same, found, whole)), (sound_s, windows_a_piece)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """11 s at 4 frames a second with a tone that rises."""
    t = np.arange(11 * 8000) / 8000
    with av.open(str(tmp_path / "clip.mp4"), mode="w", format="mp4") as container:
        video = add_video(container, fps=4)
        sound = add_sound(container, "aac", 8000)
        mux_in_order(
            container,
            encode_video(video, numbered_frames(44)),
            encode_sound(sound, (0.0, (0.5 * np.sin(300 * t * (1 + t))).astype(np.float32))),
        )
    return tmp_path / "clip.mp4"


@pytest.mark.parametrize(("piece_s", "count"), [(2, 6), (4, 3), (11, 1), (300, 1)])
def test_pieces_together_are_the_whole(
    clip: Path, piece_s: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = decode_video(clip, size_px=None, sampling=Sampling.TIME)
    monkeypatch.setattr(pieces, "PIECE_S", piece_s)
    found = list(decode_pieces(str(clip), size_px=None))
    assert len(found) == count
    assert frame_numbers(np.concatenate([v.frames for v in found])) == list(range(3, 44, 4))
    times = np.concatenate([v.frame_time_s for v in found])
    np.testing.assert_allclose(times, whole.frame_time_s)
    assert found[-1].info.duration_s == pytest.approx(whole.info.duration_s, abs=0.3)
    samples = np.concatenate([v.samples for v in found if v.samples is not None])
    assert whole.samples is not None
    length = 11 * RATE_HZ
    np.testing.assert_allclose(samples[:length], whole.samples[:length], atol=2e-4)


def test_damage_shows_where_it_is(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as container:
        for entry in list(container.streams.video[0].index_entries)[40:44]:
            data[entry.pos : entry.pos + entry.size] = b"\xff" * entry.size
    clip.write_bytes(data)
    monkeypatch.setattr(pieces, "PIECE_S", 4)
    found: Iterator[object] = decode_pieces(str(clip), size_px=None)
    next(found)
    next(found)
    with pytest.raises(MediaError, match="the picture is damaged"):
        next(found)


def test_a_piece_without_sound_asked_for_has_none(clip: Path) -> None:
    (video,) = decode_pieces(str(clip), size_px=(8, 8), with_audio=False)
    assert part_of(video).samples is None
