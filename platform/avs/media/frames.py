"""Resizing and reading of pictures.

AVSBench resizes with OpenCV; this is the same sampling (half-pixel centres, no antialiasing) on
torch, equal to ``cv2.INTER_LINEAR`` to within one level, so that OpenCV is not needed. Antialiasing
would look better but give other pixels than the published preprocessing.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from avs.errors import MediaError

__all__ = ["MAX_FRAME_PIXELS", "open_image", "read_image", "resize_frames"]

MAX_FRAME_PIXELS = 8192 * 8192


def resize_frames(frames: NDArray[np.uint8], size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Bilinear resize of uint8 [N, H, W, 3] to ``size_px`` = (height, width).

    Half-pixel centres, no antialiasing; the aspect ratio is not kept.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(
            f"frames must be uint8 [N, H, W, 3], not {frames.dtype} {list(frames.shape)}"
        )
    if frames.shape[1:3] == tuple(size_px):
        return frames
    out = np.empty((len(frames), *size_px, 3), np.uint8)
    for source, target in zip(frames, out, strict=True):
        target[:] = _resize_one(source, size_px)
    return out


def _resize_one(frame: NDArray[np.uint8], size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Rows first, then columns: only the pixels that are sampled are converted to float."""
    rows_above, rows_below, row_weight = _taps(frame.shape[0], size_px[0])
    cols_left, cols_right, col_weight = _taps(frame.shape[1], size_px[1])
    pixels = torch.from_numpy(np.ascontiguousarray(frame))
    above, below = pixels[rows_above].float(), pixels[rows_below].float()
    rows = torch.lerp(above, below, row_weight[:, None, None])
    columns = torch.lerp(rows[:, cols_left], rows[:, cols_right], col_weight[None, :, None])
    resized: NDArray[np.uint8] = columns.add_(0.5).to(torch.uint8).numpy()
    return resized


def _taps(num_in: int, num_out: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Indices of the two source pixels of each output pixel and the weight of the second."""
    centre = (np.arange(num_out) + 0.5) * (num_in / num_out) - 0.5
    first = np.floor(centre)
    weight = torch.from_numpy((centre - first).astype(np.float32))
    low = torch.from_numpy(np.clip(first, 0, num_in - 1).astype(np.int64))
    high = torch.from_numpy(np.clip(first + 1, 0, num_in - 1).astype(np.int64))
    return low, high, weight


def read_image(data: bytes | str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Picture as uint8 RGB [H, W, 3] from encoded bytes or a path; raises MediaError."""
    return np.array(open_image(data).convert("RGB"))


def open_image(data: bytes | str | os.PathLike[str]) -> Image.Image:
    """Decoded PIL image in its own mode; raises MediaError naming the file."""
    name = "image" if isinstance(data, bytes) else str(data)
    try:
        image = Image.open(io.BytesIO(data if isinstance(data, bytes) else Path(data).read_bytes()))
        if image.width * image.height > MAX_FRAME_PIXELS:
            raise MediaError(f"{name}: picture of {image.width} x {image.height} is too large")
        image.load()
    except UnidentifiedImageError:
        raise MediaError(f"{name}: is not a picture that can be read") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MediaError(f"{name}: cannot be read ({error})") from error
    return image
