"""Videos of any length: decoded piece by piece, cut into the windows that a network sees.

A piece is decoded in the decoder child of this process and holds minutes, so an hour costs the
memory of minutes, and a file of ordinary length is one piece. Windows are those of
:func:`avs.windows.plan_windows` over the whole video: the last T seconds of a piece stay for the
window that ends with the video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from avs.media.resampling import SAMPLE_RATE_HZ
from avs.media.sandbox import decode_video
from avs.media.video import DecodedVideo, Sampling
from avs.windows import Window, cut_sound, plan_windows

__all__ = ["PIECE_S", "MediaPart", "MediaWindow", "decode_pieces", "media_windows", "part_of"]

PIECE_S = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaPart:
    """Some seconds: frames uint8 [N, H, W, 3], their times [N], samples float32 16 kHz or None."""

    frames: NDArray[np.uint8]
    frame_time_s: NDArray[np.float64]
    samples: NDArray[np.float32] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaWindow:
    """What a network sees at once.

    ``window`` counts frames from the start of the video. frames uint8 [T, H, W, 3], frame_time_s
    [T], sound float32 [T * 16000], or None where there is none.
    """

    window: Window
    frames: NDArray[np.uint8]
    frame_time_s: NDArray[np.float64]
    sound: NDArray[np.float32] | None


def decode_pieces(
    path: str,
    *,
    size_px: tuple[int, int] | None,
    max_duration_s: float | None = None,
    with_audio: bool = True,
    at_s: Callable[[int], float] | None = None,
) -> Iterator[DecodedVideo]:
    """One frame a second of a video, up to PIECE_S of them at a time; together they are the whole.

    ``at_s`` gives the time within each second of which the frame is taken. Raises MediaError, also
    after some pieces: a damaged file shows where it is damaged.
    """
    start = 0
    while True:
        # The frame behind a piece tells whether there is another.
        video = decode_video(
            path,
            size_px=size_px,
            sampling=Sampling.TIME,
            num_frames=PIECE_S + 1,
            start_s=float(start),
            max_duration_s=max_duration_s,
            with_audio=with_audio,
            times_s=at_s and tuple(at_s(start + k) for k in range(PIECE_S + 1)),
        )
        if len(video.frames) <= PIECE_S:
            yield video
            return
        samples = video.samples
        yield replace(
            video,
            frames=video.frames[:PIECE_S],
            frame_time_s=video.frame_time_s[:PIECE_S],
            samples=None if samples is None else samples[: PIECE_S * SAMPLE_RATE_HZ],
        )
        start += PIECE_S


def part_of(video: DecodedVideo) -> MediaPart:
    """The frames and sound of a piece."""
    return MediaPart(frames=video.frames, frame_time_s=video.frame_time_s, samples=video.samples)


def media_windows(parts: Iterable[MediaPart], *, window_frames: int) -> Iterator[MediaWindow]:
    """The windows of a video that comes in parts of whole seconds.

    The result does not depend on the parts, as long as each but the last is a multiple of
    ``window_frames`` long.
    """
    tail: MediaPart | None = None
    offset = 0
    for part in parts:
        group = part if tail is None else _joined(tail, part)
        windows = plan_windows(len(group.frames), window_frames=window_frames)
        for window in windows if tail is None else windows[1:]:  # the first is the tail
            yield _cut(group, window, offset=offset, window_frames=window_frames)
        tail = _tail(group, window_frames)
        offset += len(group.frames) - window_frames


def _cut(group: MediaPart, window: Window, *, offset: int, window_frames: int) -> MediaWindow:
    indices = list(window.indices)
    sound = None
    if group.samples is not None:
        sound = cut_sound(
            group.samples, window, sample_rate_hz=SAMPLE_RATE_HZ, window_frames=window_frames
        )
    return MediaWindow(
        window=replace(
            window, start=window.start + offset, indices=tuple(i + offset for i in indices)
        ),
        frames=group.frames[indices],
        frame_time_s=group.frame_time_s[indices],
        sound=sound,
    )


def _tail(part: MediaPart, count: int) -> MediaPart:
    """The last ``count`` seconds."""
    first = len(part.frames) - count
    samples = part.samples
    return MediaPart(
        frames=part.frames[first:],
        frame_time_s=part.frame_time_s[first:],
        samples=None if samples is None else samples[first * SAMPLE_RATE_HZ :],
    )


def _joined(first: MediaPart, second: MediaPart) -> MediaPart:
    samples = None
    if first.samples is not None or second.samples is not None:  # sound may end or begin late
        length = len(first.frames) * SAMPLE_RATE_HZ
        head = np.zeros(0, np.float32) if first.samples is None else first.samples[:length]
        rest = np.zeros(0, np.float32) if second.samples is None else second.samples
        samples = np.concatenate([np.pad(head, (0, length - len(head))), rest])
    return MediaPart(
        frames=np.concatenate([first.frames, second.frames]),
        frame_time_s=np.concatenate([first.frame_time_s, second.frame_time_s]),
        samples=samples,
    )
