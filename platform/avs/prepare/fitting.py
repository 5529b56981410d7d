"""Pictures and their masks to the square that networks see, with one geometry for both.

AVSBench-object was stretched by OpenCV. AVSBench-semantic's loader uses Pillow, whose filter
averages, and cuts the centre of train pictures so that their aspect ratio is kept; masks take the
nearest pixel in both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avs.datasets import DatasetSpec
from avs.media.frames import resize_frames
from avs.media.masks import resize_mask

__all__ = ["Fit", "fit_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """How a picture of any size becomes ``side_px`` x ``side_px``."""

    side_px: int
    crop: bool = False
    antialias: bool = False

    @property
    def size_px(self) -> tuple[int, int]:
        """(height, width) of the result."""
        return self.side_px, self.side_px

    def frames(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [N, H, W, 3] to [N, S, S, 3]."""
        if not self.antialias:
            return resize_frames(images, self.size_px)
        height_px, width_px = self._before_crop(images.shape[1], images.shape[2])
        return np.stack([self._cut(_averaged(image, height_px, width_px)) for image in images])

    def mask(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [H, W] to [S, S], nearest pixel."""
        return self._cut(resize_mask(mask, self._before_crop(*mask.shape)))

    def _before_crop(self, height_px: int, width_px: int) -> tuple[int, int]:
        """(height, width) whose short side is S; the long one is cut to a whole number."""
        if not self.crop:
            return self.size_px
        if width_px > height_px:
            return self.side_px, int(width_px * self.side_px / height_px)
        return int(height_px * self.side_px / width_px), self.side_px

    def _cut(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        top, left = (round((n - self.side_px) / 2) for n in image.shape[:2])
        return image[top : top + self.side_px, left : left + self.side_px]


def fit_of(spec: DatasetSpec, split: str, side_px: int) -> Fit:
    """The rule of a data set for the pictures of a split."""
    crop = spec.crop_train and split == "train"
    return Fit(side_px=side_px, crop=crop, antialias=spec.crop_train)


def _averaged(image: NDArray[np.uint8], height_px: int, width_px: int) -> NDArray[np.uint8]:
    resized = Image.fromarray(image).resize((width_px, height_px), Image.Resampling.BILINEAR)
    return np.asarray(resized)
