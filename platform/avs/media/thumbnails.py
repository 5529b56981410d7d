"""A strip of small pictures of a video with its masks: what a gallery shows of it."""

from __future__ import annotations

import math
import os

import numpy as np
from PIL import Image

from avs.media.drawing import blend_mask, mask_palette
from avs.media.held_masks import read_stored_track
from avs.media.masks import resize_mask
from avs.media.probing import probe
from avs.media.sampling import Sampling
from avs.media.video import decode_video

__all__ = ["thumbnail_track"]

_MAX_PICTURES = 8
_COLUMNS = 4
_WIDTH_PX = 240
_QUALITY = 85


def thumbnail_track(path: str | os.PathLike[str], *, track: str, target: str) -> int:
    """Write a JPEG of up to eight moments of a video, evenly spaced, with the masks of a
    ``masks.json`` drawn in; returns how many there are.

    All by path, so that it can be done in the decoder child. Raises MediaError.
    """
    stored = read_stored_track(track, video=str(path))
    num_masks = len(stored.time_s)
    count = min(_MAX_PICTURES, num_masks)
    info = probe(path)
    size_px = (max(1, round(info.height_px * _WIDTH_PX / info.width_px)), _WIDTH_PX)
    palette = mask_palette(stored.num_classes)
    pictures = []
    for index in ((2 * k + 1) * num_masks // (2 * count) for k in range(count)):
        frame = _frame(path, stored.time_s[index], size_px=size_px)
        mask = resize_mask(stored.held.masks[index], size_px)
        pictures.append(blend_mask(frame, mask, palette=palette))
    Image.fromarray(_grid(pictures, size_px)).save(target, "JPEG", quality=_QUALITY)
    return count


def _frame(path: str | os.PathLike[str], at_s: float, *, size_px: tuple[int, int]) -> np.ndarray:
    """The picture that is shown at a time, uint8 [h, w, 3]."""
    video = decode_video(
        path,
        size_px=None,
        sampling=Sampling.TIME,
        num_frames=1,
        start_s=float(math.floor(at_s)),
        times_s=(at_s,),
        with_audio=False,
    )
    height, width = size_px
    # Averaging: frames shrink to a tenth here, and taking single pixels would flicker.
    small = Image.fromarray(video.frames[0]).resize((width, height), Image.Resampling.BOX)
    return np.asarray(small)


def _grid(pictures: list[np.ndarray], size_px: tuple[int, int]) -> np.ndarray:
    """Pictures [h, w, 3] in rows of four, empty places white; without any, one empty place."""
    columns = min(_COLUMNS, max(1, len(pictures)))
    rows = max(1, math.ceil(len(pictures) / columns))
    height, width = size_px
    grid = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for k, picture in enumerate(pictures):
        top, left = k // columns * height, k % columns * width
        grid[top : top + height, left : left + width] = picture
    return grid
