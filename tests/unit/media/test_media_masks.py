"""Masks in the forms that occur, pictures, run-length codes and PNG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from avs.errors import MediaError
from avs.media.frames import read_image, resize_frames
from avs.media.masks import (
    decode_rle,
    encode_rle,
    read_index_mask,
    read_mask,
    resize_mask,
    rgb_to_index,
    voc_palette,
    write_indexed_png,
)

MASK = (np.random.default_rng(1).random((20, 31)) > 0.6).astype(np.uint8)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _palette_image(indices: NDArray[np.uint8], colours: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    return image


GREY = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
FORMS = {
    "grey 0/255": Image.fromarray(MASK * 255),
    "grey with soft edges": Image.fromarray(MASK * 120 + 70),
    "grey with indices 0/1": Image.fromarray(MASK),
    "1-bit": Image.fromarray(MASK * 255).convert("1"),
    "palette black/white": _palette_image(MASK, np.array([[0] * 3, [255] * 3], np.uint8)),
    "palette black/red": _palette_image(MASK, np.array([[0] * 3, [128, 0, 0]], np.uint8)),
    "grey palette, index 255": _palette_image(MASK * 255, GREY),
    "RGB white": Image.fromarray(MASK * 255).convert("RGB"),
    "RGB red": Image.fromarray(MASK[..., None] * np.array([255, 0, 0], np.uint8)),
    "RGBA": Image.fromarray(MASK * 255).convert("RGBA"),
    "16-bit": Image.fromarray(MASK.astype(np.uint16) * 65535),
}


@pytest.mark.parametrize("image", FORMS.values(), ids=FORMS)
def test_every_form_of_a_mask_reads_the_same(image: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    path.write_bytes(_png(image))
    for source in (path.read_bytes(), path):
        mask = read_mask(source)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, MASK)


def test_an_empty_mask_stays_empty() -> None:
    assert not read_mask(_png(Image.fromarray(np.zeros((8, 8), np.uint8)))).any()


LABELS = np.random.default_rng(2).integers(0, 71, (16, 18)).astype(np.uint8)


def test_class_masks_read_the_same_from_index_and_colour_files() -> None:
    colours = voc_palette(71)
    by_colour = Image.fromarray(colours[LABELS])
    sorted_colours = colours[np.argsort(-colours.sum(1).astype(int), kind="stable")]
    place = np.argsort(np.argsort(-colours.sum(1).astype(int), kind="stable")).astype(np.uint8)
    forms = {
        "L": Image.fromarray(LABELS),
        "VOC palette": _palette_image(LABELS, colours),
        "grey palette": _palette_image(LABELS, GREY),
        "colours": by_colour,
        "own palette": _palette_image(place[LABELS], sorted_colours),
    }
    for name, image in forms.items():
        np.testing.assert_array_equal(read_index_mask(_png(image)), LABELS, err_msg=name)


def test_unknown_colours_become_background() -> None:
    rgb = np.array([[[128, 0, 0], [127, 0, 0], [0, 128, 128]]], np.uint8)
    assert rgb_to_index(rgb).tolist() == [[1, 0, 6]]


def test_palette_is_that_of_voc() -> None:
    palette = voc_palette(71)
    assert palette[[0, 1, 2, 3, 4, 8]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [0, 0, 128],
        [64, 0, 0],
    ]
    assert len(np.unique(palette, axis=0)) == 71
    with pytest.raises(ValueError, match="num_classes"):
        voc_palette(257)


def test_masks_are_resized_like_pillow() -> None:
    for size_px in ((7, 9), (40, 62), (33, 10)):
        expected = Image.fromarray(MASK).resize(size_px[::-1], Image.Resampling.NEAREST)
        np.testing.assert_array_equal(resize_mask(MASK, size_px), np.asarray(expected))


@pytest.mark.parametrize(
    "mask", [MASK, MASK > 0, np.zeros((3, 5), np.uint8), np.ones((4, 1), bool)]
)
def test_run_length_codes_round_trip(mask: NDArray[np.uint8]) -> None:
    rle = encode_rle(mask)
    assert rle["size"] == list(mask.shape)
    assert isinstance(rle["counts"], str)
    np.testing.assert_array_equal(decode_rle(rle), mask.astype(np.uint8))


def test_a_wrong_run_length_code_is_a_media_error() -> None:
    with pytest.raises(MediaError, match="run-length"):
        decode_rle({"size": [3, 3]})  # type: ignore[typeddict-item]
    with pytest.raises(MediaError, match="does not fit"):
        decode_rle({"size": [40, 40], "counts": encode_rle(MASK)["counts"]})
    with pytest.raises(MediaError, match="run-length"):
        decode_rle({"size": [3, 3], "counts": "oo"})


@pytest.mark.parametrize(("mask", "num_classes"), [(MASK, 2), (LABELS, 71)])
def test_indexed_png_round_trips(mask: NDArray[np.uint8], num_classes: int) -> None:
    data = write_indexed_png(mask, num_classes=num_classes)
    np.testing.assert_array_equal(read_index_mask(data), mask)
    np.testing.assert_array_equal(read_mask(data), mask > 0)
    with pytest.raises(ValueError, match="holds class"):
        write_indexed_png(mask, num_classes=int(mask.max()))


def test_files_that_are_no_pictures_are_media_errors(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    whole = _png(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)))
    for data, reason in ((b"words", "not a picture"), (whole[:600], "cannot be read")):
        path.write_bytes(data)
        for read in (read_mask, read_index_mask, read_image):
            with pytest.raises(MediaError, match=reason) as error:
                read(path)
            assert str(path) in str(error.value)
    with pytest.raises(MediaError, match=r"gone\.png"):
        read_mask(tmp_path / "gone.png")


def test_pictures_are_rgb(tmp_path: Path) -> None:
    path = tmp_path / "grey.jpg"
    Image.fromarray(np.full((10, 12), 90, np.uint8)).save(path)
    picture = read_image(path)
    assert picture.shape == (10, 12, 3)
    assert (picture == 90).all()


@pytest.mark.parametrize("size_px", [(10, 10), (48, 30), (7, 90), (100, 130), (24, 32)])
def test_resizing_is_bilinear_with_half_pixel_centres(size_px: tuple[int, int]) -> None:
    """The formula of cv2.INTER_LINEAR, pixel by pixel in float64."""
    frames = np.random.default_rng(3).integers(0, 256, (2, 48, 64, 3)).astype(np.uint8)
    y = np.clip((np.arange(size_px[0]) + 0.5) * 48 / size_px[0] - 0.5, 0, 47)
    x = np.clip((np.arange(size_px[1]) + 0.5) * 64 / size_px[1] - 0.5, 0, 63)
    top, left = np.minimum(y.astype(int), 46), np.minimum(x.astype(int), 62)
    wy, wx = (y - top)[:, None, None], (x - left)[:, None]
    values = frames.astype(np.float64)
    upper = values[:, top][:, :, left] * (1 - wx) + values[:, top][:, :, left + 1] * wx
    lower = values[:, top + 1][:, :, left] * (1 - wx) + values[:, top + 1][:, :, left + 1] * wx
    expected = upper * (1 - wy) + lower * wy
    resized = resize_frames(frames, size_px)
    assert resized.shape == (2, *size_px, 3)
    assert np.abs(resized - expected).max() <= 0.51
