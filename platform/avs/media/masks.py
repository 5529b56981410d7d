"""Reading, resizing and encoding of masks.

AVSBench copies in use hold the same masks as L 0/255, 1-bit, or palette images with index 1 or
255. The readers here look at the indices, not at the palette's colours, except where only colours
are stored (``labels_rgb``). Thresholding instead of the reference's dithering conversion gives the
same result on clean masks and a stable one on others.
"""

from __future__ import annotations

import functools
import io
import os
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from avs.errors import MediaError
from avs.media.frames import MAX_FRAME_PIXELS, open_image

__all__ = [
    "NUM_AVSS_CLASSES",
    "Rle",
    "decode_rle",
    "encode_rle",
    "read_index_mask",
    "read_mask",
    "resize_mask",
    "rgb_to_index",
    "rle_area",
    "voc_palette",
    "write_indexed_png",
]

NUM_AVSS_CLASSES = 71


class Rle(TypedDict):
    """COCO run-length code of a binary mask: ``size`` = [height, width], ``counts`` = text.

    What is written here is always text; files of others may hold the runs as a list.
    """

    size: list[int]
    counts: str


def read_mask(data: bytes | str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Binary mask, uint8 [H, W] of 0 and 1, from encoded bytes or a path.

    1-bit and palette images: index > 0 (palettes are ignored, so indices 0/1 and the grey palette
    with 0/255 both work). L: value > 127, but an L image whose largest value is 1 holds indices.
    Colour images: any channel > 127, transparency ignored. 16-bit: upper half of the range.
    Raises MediaError.
    """
    image = open_image(data)
    if image.mode in ("1", "P"):
        return (np.asarray(image) > 0).astype(np.uint8)
    if image.mode == "L":
        values = np.asarray(image)
        return (values > (0 if values.max() == 1 else 127)).astype(np.uint8)
    if image.mode in ("I", "I;16", "I;16B"):
        return (np.asarray(image) > 32767).astype(np.uint8)
    channels = np.asarray(image.convert("RGB"))
    return np.asarray((channels > 127).any(axis=-1), np.uint8)


def read_index_mask(
    data: bytes | str | os.PathLike[str], *, num_classes: int = NUM_AVSS_CLASSES
) -> NDArray[np.uint8]:
    """Class-index mask, uint8 [H, W], from ``labels_semantic`` or ``labels_rgb`` files.

    L and 1-bit: the values. Palette images: the indices, unless every colour used is a VOC colour
    at another index (a colour mask saved with its own palette). Colour images: VOC lookup.
    Raises MediaError.
    """
    image = open_image(data)
    if image.mode in ("L", "1"):
        return np.asarray(image).astype(np.uint8)
    if image.mode == "P":
        indices = np.asarray(image)
        return _recoded(image, indices, num_classes)
    if image.mode in ("I", "I;16", "I;16B"):
        return np.asarray(np.clip(np.asarray(image), 0, 255), np.uint8)
    return rgb_to_index(np.asarray(image.convert("RGB")), num_classes=num_classes)


def _recoded(image: Image.Image, indices: NDArray[np.uint8], num_classes: int) -> NDArray[np.uint8]:
    colours = np.zeros((256, 3), np.uint8)
    stored = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    colours[: len(stored)] = stored
    as_class = rgb_to_index(colours[None], num_classes=num_classes)[0]
    used = np.unique(indices)
    is_voc = (as_class[used] > 0) | (colours[used] == 0).all(axis=-1)
    return as_class[indices] if is_voc.all() and len(used) > 1 else indices


def rgb_to_index(
    rgb: NDArray[np.uint8], *, num_classes: int = NUM_AVSS_CLASSES
) -> NDArray[np.uint8]:
    """Class of each VOC colour: uint8 [..., 3] to uint8 [...]; an unknown colour becomes 0."""
    packed = (rgb.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(-1, dtype=np.uint32)
    return np.asarray(_colour_table(num_classes)[packed])


@functools.lru_cache(maxsize=2)
def _colour_table(num_classes: int) -> NDArray[np.uint8]:
    table = np.zeros(1 << 24, np.uint8)
    red, green, blue = voc_palette(num_classes).astype(np.uint32).T
    table[red << 16 | green << 8 | blue] = np.arange(num_classes)
    return table


def voc_palette(num_classes: int) -> NDArray[np.uint8]:
    """Pascal VOC colours, uint8 [num_classes, 3]; class 0 is black."""
    if not 1 <= num_classes <= 256:
        raise ValueError(f"num_classes must be between 1 and 256, not {num_classes}")
    palette = np.zeros((num_classes, 3), np.uint8)
    classes = np.arange(num_classes)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((classes >> (3 * bit + channel) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return palette


def resize_mask(mask: NDArray[np.uint8], size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Nearest-neighbour resize of [H, W] to (height, width), half-pixel centres as in Pillow."""
    if mask.shape == tuple(size_px):
        return mask
    rows = ((np.arange(size_px[0]) + 0.5) * mask.shape[0] / size_px[0]).astype(np.int64)
    columns = ((np.arange(size_px[1]) + 0.5) * mask.shape[1] / size_px[1]).astype(np.int64)
    return np.asarray(mask[rows[:, None], columns])


def encode_rle(mask: NDArray[np.uint8] | NDArray[np.bool_]) -> Rle:
    """COCO run-length code of a binary mask [H, W] (non-zero = object)."""
    code = coco_mask.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    return {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode("ascii")}


def rle_area(rle: Rle) -> int:
    """How many pixels a run-length code covers."""
    return int(coco_mask.area(rle))


def decode_rle(rle: Rle) -> NDArray[np.uint8]:
    """Binary mask, uint8 [H, W], of a COCO run-length code; raises MediaError.

    Written out because pycocotools trusts the counts of a code from elsewhere, and warns.
    Uncompressed counts (a list of numbers) are read too.
    """
    counts: str | list[int] = rle.get("counts", "")
    try:
        height, width = (int(n) for n in rle["size"])
        if height * width > MAX_FRAME_PIXELS:
            raise MediaError(f"run-length code of {height} x {width} pixels is too large")
        is_list = isinstance(counts, list)
        runs = [int(n) for n in counts] if is_list else _run_lengths(rle["counts"].encode("ascii"))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise MediaError(f"not a COCO run-length code ({error!r})") from error
    if min(height, width, *runs, 0) < 0 or sum(runs) != height * width:
        raise MediaError(f"run-length code of {sum(runs)} pixels does not fit {height} x {width}")
    values = np.arange(len(runs), dtype=np.uint8) % 2
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def _run_lengths(text: bytes) -> list[int]:
    """Runs of 0, 1, 0, ...: 5 bits a character, low first; from the third as a difference."""
    runs: list[int] = []
    position = 0
    while position < len(text):
        value, shift, is_open = 0, 0, True
        while is_open:
            digit = text[position] - 48
            value |= (digit & 0x1F) << shift
            is_open = bool(digit & 0x20)
            position += 1
            shift += 5
        if digit & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs


def write_indexed_png(mask: NDArray[np.uint8], *, num_classes: int) -> bytes:
    """PNG whose pixel values are the class indices of ``mask`` [H, W].

    The palette is black and white for two classes and VOC for more, so viewers show something.
    """
    if int(mask.max(initial=0)) >= num_classes:
        raise ValueError(f"mask holds class {int(mask.max())}, num_classes is {num_classes}")
    image = Image.fromarray(np.ascontiguousarray(mask, dtype=np.uint8), mode=None)
    palette = np.array([[0] * 3, [255] * 3]) if num_classes <= 2 else voc_palette(num_classes)
    image.putpalette(palette.astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=False)
    return buffer.getvalue()
