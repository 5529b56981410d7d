"""Sine positions of time, image and video for attention, any size, always float32.

Places in an image are relative to its size, so that one place has one code on every level and at
every resolution; time is counted in frames and not divided by their number, so that frames added to
a clip leave the codes of the others as they are. Pixels are taken at their centres, where DETR
(Carion et al., ECCV 2020) counts from 1: levels of different sizes then agree.

Shapes: T frames, h x w pixels, C channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["sine_image", "sine_positions", "sine_time", "sine_video"]

TEMPERATURE = 10_000.0


def sine_positions(positions: Tensor, *, channels: int) -> Tensor:
    """Sines and cosines of falling frequency (Vaswani et al. 2017): [...] -> [..., channels].

    positions: any real numbers; float32 is used. Raises ValueError for an odd ``channels``.
    """
    if channels < 2 or channels % 2:
        raise ValueError(f"channels={channels}: an even number is needed")
    step = torch.arange(channels // 2, dtype=torch.float32, device=positions.device)
    angle = positions.float().unsqueeze(-1) * TEMPERATURE ** (-2.0 * step / channels)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)


def sine_time(num_frames: int, *, channels: int, device: torch.device | None = None) -> Tensor:
    """Positions of frames 0, 1, ...: [T, C]."""
    return sine_positions(torch.arange(num_frames, device=device), channels=channels)


def sine_image(
    height: int, width: int, *, channels: int, device: torch.device | None = None
) -> Tensor:
    """Positions of pixels, [C, h, w]: first half of the channels the row, second half the column.

    Raises ValueError unless 4 divides ``channels``.
    """
    if channels % 4:
        raise ValueError(f"channels={channels}: a multiple of 4 is needed")
    row_hc, column_wc = (
        sine_positions(_centres(length, device), channels=channels // 2)
        for length in (height, width)
    )
    rows = row_hc.T[:, :, None].expand(-1, height, width)
    columns = column_wc.T[:, None, :].expand(-1, height, width)
    return torch.cat((rows, columns))


def sine_video(
    num_frames: int, height: int, width: int, *, channels: int, device: torch.device | None = None
) -> Tensor:
    """Positions of the pixels of a clip: image plus time, [C, T, h, w]."""
    image_Chw = sine_image(height, width, channels=channels, device=device)
    time_TC = sine_time(num_frames, channels=channels, device=device)
    return image_Chw.unsqueeze(1) + time_TC.T[:, :, None, None]


def _centres(length: int, device: torch.device | None) -> Tensor:
    """Centres of pixels on a circle: 0.5/length ... 1 - 0.5/length, times 2 pi."""
    place = torch.arange(length, dtype=torch.float32, device=device)
    return (place + 0.5) * (2.0 * math.pi / length)
