"""Swin's blocks in the form that the published segmentation networks use (Liu et al., ICCV 2021).

timm's modules hold the weights; the way through a block is here, because timm differs where it
matters for official weights: it pads after the cyclic shift, so that at sizes that are no multiple
of the window far rows and columns meet without a mask. Here the map is padded first, then shifted;
the mask is made once per stage. Networks must be built with ``always_partition``: every odd block
then has a shift, and whether it is carried out is decided here, by the size of the map.

Shapes: N frames, C channels, h x w pixels, W windows a frame, P = pixels of a window.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

__all__ = ["is_index_buffer", "is_swin", "swin_names_to_timm", "swin_patches", "swin_stage"]

HIDDEN = -100.0  # the published value: what a masked pair gets before the softmax


def is_swin(name: str) -> bool:
    """Whether timm's network of this name is made of the blocks handled here (not Swin v2)."""
    return name.startswith("swin_")


def swin_patches(net: Any, x_N3HW: Tensor) -> Tensor:
    """timm's embedding of patches at any size: [N, h, w, C].

    Sides that no patch divides get zeros at the right and below, as in the authors' code.
    """
    height, width = net.patch_embed.patch_size
    padding = (0, -x_N3HW.shape[-1] % width, 0, -x_N3HW.shape[-2] % height)
    patches_NhwC: Tensor = net.patch_embed(F.pad(x_N3HW, padding))
    return patches_NhwC


def swin_stage(stage: Any, x_NhwC: Tensor, *, always_shift: bool) -> Tensor:
    """Run a stage of timm's Swin: merge patches (but for the first), then its blocks.

    x_NhwC: [N, h, w, C]; returns [N, h', w', C'] of the stage.
    always_shift: odd blocks shift also where one window covers the map, as in the official
    segmentation code. Without, they do not there, as when the ImageNet weights were trained.
    """
    x_NhwC = stage.downsample(x_NhwC)
    window = stage.blocks[0].window_size
    shifts = always_shift or x_NhwC.shape[1] > window[0] or x_NhwC.shape[2] > window[1]
    mask_WPP = None
    for block in stage.blocks:
        shift = block.shift_size if shifts else (0, 0)
        if any(shift) and mask_WPP is None:
            mask_WPP = _shift_mask(x_NhwC, window=window, shift=shift)
        attended = _attention(block, block.norm1(x_NhwC), shift, mask_WPP if any(shift) else None)
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


def _attention(
    block: Any, x_NhwC: Tensor, shift: tuple[int, int], mask_WPP: Tensor | None
) -> Tensor:
    """Pad, shift, attend within windows, and back."""
    window = block.window_size
    height, width = x_NhwC.shape[1:3]
    x_NhwC = F.pad(x_NhwC, (0, 0, 0, -width % window[1], 0, -height % window[0]))
    padded_height, padded_width, num_channels = x_NhwC.shape[1:]
    if any(shift):
        x_NhwC = torch.roll(x_NhwC, shifts=(-shift[0], -shift[1]), dims=(1, 2))
    windows = _to_windows(x_NhwC, window).flatten(1, 2)
    windows = block.attn(windows, mask=mask_WPP)
    windows = windows.view(-1, *window, num_channels)
    x_NhwC = _from_windows(windows, padded_height, padded_width)
    if any(shift):
        x_NhwC = torch.roll(x_NhwC, shifts=shift, dims=(1, 2))
    return x_NhwC[:, :height, :width]


def _to_windows(x_NhwC: Tensor, window: tuple[int, int]) -> Tensor:
    """[N, h, w, C] -> [N * W, rows, columns, C], windows from left to right and top to bottom."""
    rows, columns = window
    batch, height, width, num_channels = x_NhwC.shape
    x = x_NhwC.reshape(batch, height // rows, rows, width // columns, columns, num_channels)
    return x.transpose(2, 3).flatten(0, 2)


def _from_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """The reverse of :func:`_to_windows`: [N * W, rows, columns, C] -> [N, height, width, C]."""
    rows, columns, num_channels = windows.shape[1:]
    x = windows.view(-1, height // rows, width // columns, rows, columns, num_channels)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _shift_mask(x_NhwC: Tensor, *, window: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """[W, P, P]: 0 within a region of the shifted map, HIDDEN between regions."""
    rows, columns = (
        _regions(x_NhwC.shape[1 + axis], window[axis], shift[axis], device=x_NhwC.device)
        for axis in (0, 1)
    )
    regions_1hw1 = (3 * rows[:, None] + columns)[None, :, :, None]
    regions_WP = _to_windows(regions_1hw1, window).flatten(1)
    other_WPP = regions_WP[:, None] != regions_WP[:, :, None]
    return torch.zeros_like(other_WPP, dtype=torch.float32).masked_fill(other_WPP, HIDDEN)


def _regions(length: int, window: int, shift: int, *, device: torch.device) -> Tensor:
    """0, 1 or 2 for each position along one axis: before the last window, in it, wrapped."""
    padded = length + -length % window
    position = torch.arange(padded, device=device)
    return (position >= padded - window).long() + (position >= padded - shift).long()
