"""Whole videos with their masks drawn in and their own sound.

How an overlay is streamed, and what becomes of its sound: :mod:`avs.media.transcoding`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from avs.media.drawing import blend_mask, draw_outlines, mask_palette
from avs.media.frames import resize_frames
from avs.media.held_masks import HeldMasks, read_stored_track
from avs.media.masks import resize_mask
from avs.media.muxing import EncodedPicture
from avs.media.probing import probe
from avs.media.pyav_reader import upright
from avs.media.sampling import SAMPLE_OFFSET_S
from avs.media.transcoding import Rendering, write_rendering

__all__ = ["draw_track", "write_overlay"]

_OPACITY = 0.5


def write_overlay(
    video_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    *,
    masks: Sequence[NDArray[np.uint8]],
    mask_time_s: Sequence[float],
    opacity: float = _OPACITY,
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
    held = HeldMasks.hold(
        masks, mask_time_s=mask_time_s, hold_before_s=hold_before_s, silent=silent
    )
    if palette is None:
        highest = max((int(mask.max(initial=0)) for mask in masks), default=0)
        palette = mask_palette(1 + highest)
    _write(video_path, out_path, held, palette=palette, opacity=opacity)


def draw_track(path: str | os.PathLike[str], *, track: str, target: str) -> int:
    """:func:`write_overlay` with the masks of a ``masks.json``; returns how many there are.

    All by path, so that it can be done in the decoder child. Raises MediaError.
    """
    stored = read_stored_track(track, video=str(path))
    palette = mask_palette(stored.num_classes)
    _write(path, target, stored.held, palette=palette, opacity=_OPACITY)
    return len(stored.held.masks)


def _write(
    video_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    held: HeldMasks,
    *,
    palette: NDArray[np.uint8],
    opacity: float,
) -> None:
    info = probe(video_path)
    painter = _Painter(
        held=held, opacity=opacity, palette=palette, size_px=(info.height_px, info.width_px)
    )
    rendering = Rendering(
        name="overlay",
        container="mp4",
        encoder=EncodedPicture,
        size_px=painter.even_size_px,
        paint=painter.paint,
        has_sound=True,
    )
    write_rendering(video_path, out_path, rendering)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Painter:
    """Draws the mask that holds at a time, on frames brought to one even size."""

    held: HeldMasks
    opacity: float
    palette: NDArray[np.uint8]
    size_px: tuple[int, int]

    @property
    def even_size_px(self) -> tuple[int, int]:
        """(height, width) of the frames that come out."""
        return self.size_px[0] + self.size_px[0] % 2, self.size_px[1] + self.size_px[1] % 2

    def paint(self, frame: VideoFrame, time_s: float) -> NDArray[np.uint8]:
        """Decoded frame at ``time_s`` from the first one: upright, tinted, of even size."""
        pixels = resize_frames(upright(frame)[None], self.size_px)[0]
        index = self.held.index_at(time_s)
        if index >= 0:
            mask = resize_mask(self.held.masks[index], self.size_px)
            pixels = blend_mask(pixels, mask, opacity=self.opacity, palette=self.palette)
            if self.held.silent is not None:
                labels = resize_mask(self.held.silent[index], self.size_px)
                pixels = draw_outlines(pixels, labels)
        height, width = self.size_px
        return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
