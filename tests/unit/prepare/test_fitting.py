"""Pictures and masks to the network's square by the rule of their data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_clips import data_config, write_png, write_wav
from PIL import Image

from avs.datasets import DATASETS
from avs.errors import MediaError
from avs.media.frames import read_image, resize_frames
from avs.prepare.clip import prepare_clip
from avs.prepare.fitting import Fit, fit_of
from avs.schema import Clip

RNG = np.random.default_rng(0)


def _published_crop(image: Image.Image, side: int, resample: Image.Resampling) -> np.ndarray:
    """What AVSBench-semantic's loader does with a train picture."""
    w, h = image.size
    size = (int(1.0 * w * side / h), side) if w > h else (side, int(1.0 * h * side / w))
    resized = image.resize(size, resample)
    x, y = (round((n - side) / 2.0) for n in resized.size)
    return np.asarray(resized.crop((x, y, x + side, y + side)))


@pytest.mark.parametrize("size_px", [(90, 160), (161, 90), (77, 77), (45, 61), (224, 300)])
def test_train_pictures_and_masks_of_avss_are_cropped_as_published(
    size_px: tuple[int, int],
) -> None:
    fit = fit_of(DATASETS["avss"], "train", 56)
    picture = RNG.integers(0, 256, (*size_px, 3), np.uint8)
    mask = RNG.integers(0, 71, size_px, np.uint8)
    bilinear, nearest = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
    wanted = _published_crop(Image.fromarray(picture), 56, bilinear)
    assert np.array_equal(fit.frames(picture[None])[0], wanted)
    wanted = _published_crop(Image.fromarray(mask), 56, nearest)
    assert np.array_equal(fit.mask(mask), wanted)


@pytest.mark.parametrize("split", ["val", "test"])
def test_other_splits_of_avss_are_stretched_by_pillow(split: str) -> None:
    picture = RNG.integers(0, 256, (90, 160, 3), np.uint8)
    fit = fit_of(DATASETS["avss"], split, 56)
    wanted = Image.fromarray(picture).resize((56, 56), Image.Resampling.BILINEAR)
    assert np.array_equal(fit.frames(picture[None])[0], np.asarray(wanted))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"avss"}))
def test_other_data_sets_are_stretched_as_by_opencv(name: str, split: str) -> None:
    picture = RNG.integers(0, 256, (1, 90, 160, 3), np.uint8)
    fit = fit_of(DATASETS[name], split, 56)
    assert np.array_equal(fit.frames(picture), resize_frames(picture, (56, 56)))


def test_a_marked_corner_stays_in_place_in_picture_and_mask() -> None:
    mask = np.zeros((100, 200), np.uint8)
    mask[20:40, 90:110] = 1
    picture = np.repeat(mask[..., None] * 255, 3, -1)
    for fit in (Fit(side_px=50), Fit(side_px=50, crop=True, antialias=True)):
        seen = fit.frames(picture[None])[0, :, :, 0] > 127
        assert np.abs(seen.astype(int) - fit.mask(mask)).mean() < 0.02
        assert fit.mask(mask).any()


def _avss_clip(root: Path, split: str, mask_px: tuple[int, int]) -> Clip:
    (root / "metadata.csv").write_text(f"uid,a_obj,split,label\nu_1,dog,{split},v1m\n")
    for k in range(5):
        write_png(root / f"v1m/u_1/frames/{k}.jpg", RNG.integers(0, 256, (60, 90, 3), np.uint8))
        write_png(root / f"v1m/u_1/labels_semantic/{k}.png", np.full(mask_px, k, np.uint8))
    write_wav(root / "v1m/u_1/audio.wav", np.full((80000, 1), 900))
    config = data_config("avss", root, num_frames=10)
    (source,) = DATASETS["avss"].list_clips(config)
    (clip,) = prepare_clip(source, config)
    return clip


def test_the_rule_reaches_the_rows(tmp_path: Path) -> None:
    clip = _avss_clip(tmp_path, "train", (60, 90))
    picture = Image.fromarray(read_image(tmp_path / "v1m/u_1/frames/2.jpg"))
    wanted = _published_crop(picture, 64, Image.Resampling.BILINEAR)
    assert np.array_equal(clip.frames[2], wanted)
    assert [int(m.max()) for m in clip.masks[:5]] == [0, 1, 2, 3, 4]


def test_a_mask_that_was_resized_already_cannot_be_cropped(tmp_path: Path) -> None:
    assert _avss_clip(tmp_path, "val", (224, 224)).mask_valid[:5].all()
    with pytest.raises(MediaError, match=r"0\.png is 224x224 px; wanted the picture's 90x60"):
        _avss_clip(tmp_path, "train", (224, 224))
