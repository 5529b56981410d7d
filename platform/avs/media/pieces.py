"""Videos of any length: decoded piece by piece, cut into the windows that a network sees.

A piece is decoded in the decoder child of this process and holds minutes, so an hour costs the
memory of minutes, and a file of ordinary length is one piece. Windows are those of
:func:`avs.windows.plan_windows` over the whole video: the last T seconds of a piece stay for the
window that ends with the video.

Networks see one frame a second. With m samples a second a video is seen m times: phase p is the
video of samples p, p + m, p + 2m, ..., one a second, with the sound of the same seconds. A round is
the windows of all phases that lie over the same seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from avs.media.resampling import SAMPLE_RATE_HZ
from avs.media.sandbox import decode_video
from avs.media.video import DecodedVideo, Sampling
from avs.windows import Window, cut_sound, plan_windows

__all__ = [
    "PIECE_S",
    "MediaPart",
    "MediaWindow",
    "decode_pieces",
    "media_rounds",
    "media_windows",
    "part_of",
]

PIECE_S = 300  # of one sample a second; of more, fewer seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaPart:
    """Some seconds: frames uint8 [N, H, W, 3], their times [N], samples float32 16 kHz or None.

    N: one a second, or ``samples_per_s``.
    """

    frames: NDArray[np.uint8]
    frame_time_s: NDArray[np.float64]
    samples: NDArray[np.float32] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaWindow:
    """What a network sees at once.

    ``window`` counts seconds from the start of the video. frames uint8 [T, H, W, 3], frame_time_s
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
    samples_per_s: int = 1,
    window_frames: int = 1,
    piece_s: int | None = None,
    decode: Callable[..., DecodedVideo] = decode_video,
) -> Iterator[DecodedVideo]:
    """The samples of a video, about ``piece_s`` (PIECE_S) at a time; together they are the whole.

    ``at_s`` gives the time within each second of which the frame is taken, with one sample a
    second. Pieces are whole windows of ``window_frames`` seconds long, as :func:`media_rounds`
    needs it. ``decode``: :func:`avs.media.video.decode_video` in a child with limits of its own.
    Raises MediaError, also after some pieces: a damaged file shows where it is damaged.
    """
    piece_s = max(1, (piece_s or PIECE_S) // samples_per_s // window_frames) * window_frames
    count = piece_s * samples_per_s
    start = 0
    while True:
        # The frame behind a piece tells whether there is another.
        video = decode(
            path,
            size_px=size_px,
            sampling=Sampling.TIME,
            num_frames=count + 1,
            start_s=float(start),
            max_duration_s=max_duration_s,
            with_audio=with_audio,
            times_s=at_s and tuple(at_s(start + k) for k in range(piece_s + 1)),
            samples_per_s=samples_per_s,
        )
        if len(video.frames) <= count:
            yield video
            return
        samples = video.samples
        yield replace(
            video,
            frames=video.frames[:count],
            frame_time_s=video.frame_time_s[:count],
            samples=None if samples is None else samples[: piece_s * SAMPLE_RATE_HZ],
        )
        start += piece_s


def part_of(video: DecodedVideo) -> MediaPart:
    """The frames and sound of a piece."""
    return MediaPart(frames=video.frames, frame_time_s=video.frame_time_s, samples=video.samples)


def media_windows(parts: Iterable[MediaPart], *, window_frames: int) -> Iterator[MediaWindow]:
    """The windows of a video of one frame a second that comes in parts of whole seconds.

    The result does not depend on the parts, as long as each but the last is a multiple of
    ``window_frames`` long.
    """
    for windows in media_rounds(parts, window_frames=window_frames, samples_per_s=1):
        yield from windows


def media_rounds(
    parts: Iterable[MediaPart], *, window_frames: int, samples_per_s: int
) -> Iterator[list[MediaWindow]]:
    """The windows of a video of ``samples_per_s`` frames a second, round by round.

    A round holds the windows of all phases with the same index, in the order of phases; phases
    that end one sample earlier may be missing in the last one. The frames that it adds, in the
    order of time, follow those of the round before. The result does not depend on the parts, as
    long as each but the last is a multiple of ``window_frames`` seconds long.
    """
    phases = [_WindowCutter(window_frames) for _ in range(samples_per_s)]
    for part in parts:
        # All parts but the last give every phase as many windows: rounds end with their part.
        windows = (
            cutter.windows(_phase(part, first, samples_per_s))
            for first, cutter in enumerate(phases)
        )
        for one_round in zip_longest(*windows):
            yield [window for window in one_round if window is not None]


def _phase(part: MediaPart, first: int, step: int) -> MediaPart:
    """Every ``step``-th frame from ``first`` on, with all of the sound."""
    return replace(
        part, frames=part.frames[first::step], frame_time_s=part.frame_time_s[first::step]
    )


class _WindowCutter:
    """Cuts the windows of a video of one frame a second that is given part by part."""

    def __init__(self, window_frames: int) -> None:
        self._window_frames = window_frames
        self._tail: MediaPart | None = None
        self._offset = 0

    def windows(self, part: MediaPart) -> Iterator[MediaWindow]:
        """The windows that the next part completes, none where it has no frame."""
        if not len(part.frames):
            return
        count = self._window_frames
        group = part if self._tail is None else _joined(self._tail, part)
        planned = plan_windows(len(group.frames), window_frames=count)
        for window in planned if self._tail is None else planned[1:]:  # the first is the tail
            yield _cut(group, window, offset=self._offset, window_frames=count)
        self._tail = _tail(group, count)
        self._offset += len(group.frames) - count


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
        frames=part.frames[first:].copy(),  # a view would keep the whole part in memory
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
