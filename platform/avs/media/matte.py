"""Mattes for video editors: a video of nothing but transparency, laid over its source.

QuickTime Animation is the codec with an alpha channel that every editor reads without a licence or
a plug-in. It is lossless and codes runs, so that flat masks stay small.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from avs.media.held_masks import HeldMasks, read_stored_track
from avs.media.masks import resize_mask
from avs.media.muxing import EncodedMatte
from avs.media.probing import probe
from avs.media.sampling import SAMPLE_OFFSET_S
from avs.media.transcoding import Rendering, write_rendering

__all__ = ["matte_track", "write_matte"]


def write_matte(
    video_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    *,
    masks: Sequence[NDArray[np.uint8]],
    mask_time_s: Sequence[float],
    hold_before_s: float = SAMPLE_OFFSET_S,
) -> None:
    """Write a QuickTime file: white and opaque where a mask is not 0, transparent elsewhere.

    It has every frame of the video, at its displayed size and time, and no sound. Masks [H, W] are
    resized and hold as in :func:`avs.media.render.write_overlay`; before the first nothing is
    opaque. Raises MediaError, and then ``out_path`` is untouched.
    """
    held = HeldMasks.hold(masks, mask_time_s=mask_time_s, hold_before_s=hold_before_s)
    _write(video_path, out_path, held)


def matte_track(path: str | os.PathLike[str], *, track: str, target: str) -> int:
    """:func:`write_matte` with the masks of a ``masks.json``; returns how many there are.

    All by path, so that it can be done in the decoder child. Raises MediaError.
    """
    stored = read_stored_track(track, video=str(path))
    _write(path, target, stored.held)
    return len(stored.held.masks)


def _write(
    video_path: str | os.PathLike[str], out_path: str | os.PathLike[str], held: HeldMasks
) -> None:
    info = probe(video_path)
    size_px = (info.height_px, info.width_px)

    def alpha(_: VideoFrame, time_s: float) -> NDArray[np.uint8]:
        index = held.index_at(time_s)
        if index < 0:
            return np.zeros(size_px, np.uint8)
        return np.where(resize_mask(held.masks[index], size_px) > 0, 255, 0).astype(np.uint8)

    rendering = Rendering(
        name="matte",
        container="mov",
        encoder=EncodedMatte,
        size_px=size_px,
        paint=alpha,
        has_sound=False,
    )
    write_rendering(video_path, out_path, rendering)
