"""Whole videos with their masks drawn in and their own sound.

An overlay is a stream: a frame is decoded, tinted, encoded and forgotten, at its original time, so
memory does not depend on the length. Sound is copied packet by packet where mp4 can carry the
codec, which is lossless and keeps it in step; other codecs become AAC.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import overload

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from avs.errors import MediaError
from avs.media.coco import parse_track
from avs.media.containers import DECODER_ERRORS, decoder_reason, open_container
from avs.media.drawing import blend_mask, draw_outlines, mask_palette
from avs.media.frames import resize_frames
from avs.media.masks import resize_mask
from avs.media.muxing import (
    COPIED_CODECS,
    CopiedSound,
    EncodedPicture,
    EncodedSound,
    start_of,
)
from avs.media.probing import find_sound_stream, find_video_stream, probe
from avs.media.pyav_reader import upright
from avs.media.sampling import SAMPLE_OFFSET_S

__all__ = ["draw_track", "write_overlay"]

_EPSILON_S = 1e-3


def write_overlay(
    video_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    *,
    masks: Sequence[NDArray[np.uint8]],
    mask_time_s: Sequence[float],
    opacity: float = 0.5,
    hold_before_s: float = SAMPLE_OFFSET_S,
    palette: NDArray[np.uint8] | None = None,
    silent: Sequence[NDArray[np.uint8]] | None = None,
) -> None:
    """Write the video as H.264 mp4 with its masks drawn in and its own sound.

    Every frame is kept, at its displayed size (odd sides gain one repeated line) and time. Mask k
    [H, W] (resized to the frame) holds from ``mask_time_s[k] - hold_before_s``, in seconds from the
    first frame, until the next one; with masks for every frame pass ``hold_before_s=0``.
    ``silent``: labels beside each mask, of objects that are only outlined. Raises MediaError, and
    then ``out_path`` is untouched.
    """
    if len(masks) != len(mask_time_s):
        raise ValueError(f"{len(masks)} masks but {len(mask_time_s)} times")
    info = probe(video_path)
    if palette is None:
        highest = max((int(mask.max(initial=0)) for mask in masks), default=0)
        palette = mask_palette(1 + highest)
    painter = _Painter(
        masks=masks,
        from_s=np.asarray(mask_time_s, np.float64) - hold_before_s,
        opacity=opacity,
        palette=palette,
        size_px=(info.height_px, info.width_px),
        silent=silent,
    )
    target = Path(out_path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        try:
            _transcode(video_path, partial, painter, copy_sound=True)
        except DECODER_ERRORS:
            # Odd sound packets that mp4 refuses; damage in the picture fails again below.
            _transcode(video_path, partial, painter, copy_sound=False)
        partial.replace(target)
    except DECODER_ERRORS as error:
        raise MediaError(
            f"{video_path}: the overlay cannot be written ({decoder_reason(error)})"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def draw_track(path: str | os.PathLike[str], *, track: str, target: str) -> int:
    """:func:`write_overlay` with the masks of a ``masks.json``; returns how many there are.

    All by path, so that it can be done in the decoder child. Raises MediaError.
    """
    plain = json.loads(Path(track).read_bytes())
    masks = parse_track(plain, video=str(path))
    names = [str(name) for name in plain["classes"]]
    write_overlay(
        path,
        target,
        masks=_LazyMasks(len(masks), lambda index: masks[index].dense(names.index)),
        mask_time_s=[mask.time_s for mask in masks],
        palette=mask_palette(len(names)),
        silent=_LazyMasks(len(masks), lambda index: masks[index].silent_labels()),
    )
    return len(masks)


class _LazyMasks(Sequence[NDArray[np.uint8]]):
    """Masks that are drawn when asked for; consecutive frames ask for the same one."""

    def __init__(self, count: int, draw: Callable[[int], NDArray[np.uint8]]) -> None:
        self._count = count
        self._mask = lru_cache(maxsize=2)(draw)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.uint8]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
        if isinstance(index, slice):
            return [self._mask(i) for i in range(*index.indices(self._count))]
        return self._mask(index)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Painter:
    """Draws the mask that holds at a time, on frames brought to one even size."""

    masks: Sequence[NDArray[np.uint8]]
    from_s: NDArray[np.float64]
    opacity: float
    palette: NDArray[np.uint8]
    size_px: tuple[int, int]
    silent: Sequence[NDArray[np.uint8]] | None = None

    @property
    def even_size_px(self) -> tuple[int, int]:
        """(height, width) of the frames that come out."""
        return self.size_px[0] + self.size_px[0] % 2, self.size_px[1] + self.size_px[1] % 2

    def paint(self, frame: VideoFrame, time_s: float) -> NDArray[np.uint8]:
        """Decoded frame at ``time_s`` from the first one: upright, tinted, of even size."""
        pixels = resize_frames(upright(frame)[None], self.size_px)[0]
        index = int(np.searchsorted(self.from_s, time_s + _EPSILON_S, side="right")) - 1
        if index >= 0:
            mask = resize_mask(self.masks[index], self.size_px)
            pixels = blend_mask(pixels, mask, opacity=self.opacity, palette=self.palette)
            if self.silent is not None:
                labels = resize_mask(self.silent[index], self.size_px)
                pixels = draw_outlines(pixels, labels)
        height, width = self.size_px
        return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _transcode(
    video_path: str | os.PathLike[str], partial: Path, painter: _Painter, *, copy_sound: bool
) -> None:
    """One pass over the packets: the picture decoded, painted, encoded; the sound passed on."""
    source, name = open_container(video_path)
    with (
        source,
        av.open(
            f"file:{partial.resolve()}",
            mode="w",
            format="mp4",
            container_options={"movflags": "+faststart"},
        ) as sink,
    ):
        stream = find_video_stream(str(video_path), source)
        stream.codec_context.thread_count = 1
        audio = find_sound_stream(source)
        start_s = start_of(source)
        picture = EncodedPicture(sink, stream, painter.even_size_px, start_s)
        sound = None
        if audio is not None:
            is_copied = copy_sound and audio.codec.canonical_name in COPIED_CODECS
            sound = (CopiedSound if is_copied else EncodedSound)(sink, audio, start_s)
        first_s: float | None = None
        for packet in source.demux([stream] if sound is None else [stream, audio]):
            if packet.stream.index != stream.index:
                if sound is not None:
                    sound.add(packet)
                continue
            for frame in stream.decode(packet):
                # avi stores no display times: frames follow each other at its rate
                pts = None if name == "avi" else frame.pts
                time_s = picture.next_time_s if pts is None else (frame.time or 0.0)
                if first_s is None:
                    first_s = time_s
                picture.add(painter.paint(frame, time_s - first_s), pts)
        picture.finish()
        if sound is not None:
            sound.finish()
