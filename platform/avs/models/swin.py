"""Swin's blocks in the form that the published segmentation networks use (Liu et al., ICCV 2021).

timm's modules hold the weights; the way through a block is here, because timm differs where it
matters for official weights: it pads after the cyclic shift, so that at sizes that are no multiple
of the window far rows and columns meet without a mask. Here the map is padded first, then shifted;
the mask is made once per stage. Every odd block shifts, also where one window covers the map (the
network must be built with ``always_partition``).

Shapes: N frames, C channels, h x w pixels, W windows a frame, P = pixels of a window.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from timm.models.swin_transformer import window_partition, window_reverse
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

__all__ = ["is_index_buffer", "swin_names_to_timm", "swin_stage"]

HIDDEN = -100.0  # the published value: what a masked pair gets before the softmax


def swin_stage(stage: Any, x_NhwC: Tensor) -> Tensor:
    """Run a stage of timm's Swin: merge patches (but for the first), then its blocks.

    x_NhwC: [N, h, w, C]; returns [N, h', w', C'] of the stage.
    """
    x_NhwC = stage.downsample(x_NhwC)
    mask_WPP = None
    for block in stage.blocks:
        if any(block.shift_size) and mask_WPP is None:
            mask_WPP = _shift_mask(x_NhwC, window=block.window_size, shift=block.shift_size)
        attended = _attention(block, block.norm1(x_NhwC), mask_WPP)
        x_NhwC = x_NhwC + block.drop_path1(attended)
        x_NhwC = x_NhwC + block.drop_path2(block.mlp(block.norm2(x_NhwC)))
    return x_NhwC


def swin_names_to_timm(name: str) -> str:
    """Name of a parameter of the authors' Swin code -> its name in timm's network."""
    name = re.sub(
        r"^layers\.(\d+)\.downsample\.",
        lambda match: f"layers.{int(match[1]) + 1}.downsample.",  # there it ends a stage
        name,
    )
    return re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", name)


def is_index_buffer(name: str) -> bool:
    """Whether a name in a checkpoint is a table made from sizes, which is never loaded."""
    return name.endswith((".relative_position_index", ".attn_mask"))


def _attention(block: Any, x_NhwC: Tensor, mask_WPP: Tensor | None) -> Tensor:
    """Pad, shift, attend within windows, and back."""
    window, shift = block.window_size, block.shift_size
    height, width = x_NhwC.shape[1:3]
    x_NhwC = F.pad(x_NhwC, (0, 0, 0, -width % window[1], 0, -height % window[0]))
    padded_height, padded_width, num_channels = x_NhwC.shape[1:]
    shifts = any(shift)
    if shifts:
        x_NhwC = torch.roll(x_NhwC, shifts=(-shift[0], -shift[1]), dims=(1, 2))
    windows = window_partition(x_NhwC, window).flatten(1, 2)
    windows = block.attn(windows, mask=mask_WPP if shifts else None)
    windows = windows.view(-1, *window, num_channels)
    x_NhwC = window_reverse(windows, window, padded_height, padded_width)
    if shifts:
        x_NhwC = torch.roll(x_NhwC, shifts=shift, dims=(1, 2))
    return x_NhwC[:, :height, :width]


def _shift_mask(x_NhwC: Tensor, *, window: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """[W, P, P]: 0 within a region of the shifted map, HIDDEN between regions."""
    rows, columns = (
        _regions(x_NhwC.shape[1 + axis], window[axis], shift[axis], device=x_NhwC.device)
        for axis in (0, 1)
    )
    regions_1hw1 = (3 * rows[:, None] + columns)[None, :, :, None]
    regions_WP = window_partition(regions_1hw1, window).flatten(1)
    other_WPP = regions_WP[:, None] != regions_WP[:, :, None]
    return torch.zeros_like(other_WPP, dtype=torch.float32).masked_fill(other_WPP, HIDDEN)


def _regions(length: int, window: int, shift: int, *, device: torch.device) -> Tensor:
    """0, 1 or 2 for each position along one axis: before the last window, in it, wrapped."""
    padded = length + -length % window
    position = torch.arange(padded, device=device)
    return (position >= padded - window).long() + (position >= padded - shift).long()
