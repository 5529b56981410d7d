"""Necks, decoder and head of the TPAVI baseline (Zhou et al., ECCV 2022), reused by C3N.

Rebuilt from the official behaviour: the first ReLU of a residual unit is in place there, so its
skip carries ReLU(x); checkpoint parity needs that, written here without in-place tricks. Each step
is upsampled to the size of the next map rather than by a factor of two (the same for sides
divisible by 32), so any image size works. Maps are channels last in memory from the necks on: the
convolutions then take them as they are instead of reordering every one.

Shapes: N = clips x frames, C channels, h x w pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name everyone reads)

__all__ = ["DilatedNeck", "MaskDecoder"]

DILATIONS = (3, 6, 12, 18)


class DilatedNeck(nn.Module):
    """Four parallel dilated 3x3 convolutions, summed; [N, C_in, h, w] -> [N, width, h, w]."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, width, 3, padding=dilation, dilation=dilation)
            for dilation in DILATIONS
        )
        for branch in self.branches:
            assert isinstance(branch, nn.Conv2d)
            nn.init.normal_(branch.weight, std=0.01)

    def forward(self, x_NChw: Tensor) -> Tensor:
        """Sum of the branches."""
        x_NChw = x_NChw.contiguous(memory_format=torch.channels_last)
        out_NChw: Tensor = self.branches[0](x_NChw)
        for branch in self.branches[1:]:
            out_NChw = out_NChw + branch(x_NChw)
        return out_NChw


class ResidualConvUnit(nn.Module):
    """conv(ReLU(conv(ReLU(x)))) + ReLU(x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_NChw: Tensor) -> Tensor:
        """Same shape in and out."""
        active_NChw = F.relu(x_NChw)
        residual_NChw: Tensor = self.conv2(F.relu(self.conv1(active_NChw)))
        return residual_NChw + active_NChw


class FusionStep(nn.Module):
    """Add the skip map to the map from above, refine, upsample."""

    def __init__(self, width: int, *, has_skip: bool) -> None:
        super().__init__()
        self.skip_unit = ResidualConvUnit(width)
        self.out_unit = ResidualConvUnit(width)
        if not has_skip:  # exists in the official model, never run: DDP must not wait for it
            self.skip_unit.requires_grad_(False)

    def forward(self, top_NChw: Tensor, skip_NChw: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Returns [N, C, *size]."""
        if skip_NChw is not None:
            top_NChw = top_NChw + self.skip_unit(skip_NChw)
        out_NChw = self.out_unit(top_NChw)
        return F.interpolate(out_NChw, size=size, mode="bilinear", align_corners=True)


class MaskDecoder(nn.Module):
    """Four maps at strides 4, 8, 16, 32 -> logits [N, K, H, W] at the image size."""

    def __init__(self, width: int, *, num_classes: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(FusionStep(width, has_skip=stage < 4) for stage in (1, 2, 3, 4))
        self.head = nn.Sequential(
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Conv2d(width // 2, max(width // 8, 8), 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(max(width // 8, 8), num_classes, 1),
        )

    def forward(
        self, maps: Sequence[Tensor], *, size: tuple[int, int], valid_N111: Tensor | None
    ) -> Tensor:
        """Decode from the coarsest map down.

        maps: four [N, C, h, w], finest first. size: (H, W) of the image, pixels.
        valid_N111: 1 for real frames, 0 for padding; multiplies every step and the logits.
        """
        out: Tensor | None = None
        for stage in (3, 2, 1, 0):
            height, width = maps[stage - 1].shape[-2:] if stage else _doubled(maps[0])
            top, skip = (maps[stage], None) if out is None else (out, maps[stage])
            out = _flagged(self.steps[stage](top, skip, (height, width)), valid_N111)
        logits_NKHW: Tensor = self.head(out)
        if logits_NKHW.shape[-2:] != size:
            logits_NKHW = F.interpolate(
                logits_NKHW, size=size, mode="bilinear", align_corners=False
            )
        return _flagged(logits_NKHW, valid_N111)


def _doubled(x_NChw: Tensor) -> tuple[int, int]:
    return 2 * x_NChw.shape[-2], 2 * x_NChw.shape[-1]


def _flagged(x_NChw: Tensor, valid_N111: Tensor | None) -> Tensor:
    return x_NChw if valid_N111 is None else x_NChw * valid_N111
