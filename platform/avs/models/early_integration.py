"""Early Integration Module of CCFormer (arXiv 2510.10051): picture and sound meet on every level,
both ways at once.

Published: a parallel bilateral architecture that merges multi-scale visual features with audio in
both directions. Reconstructed: what a block computes (cross-attention, residual, layer norm, sine
time), and that the sound goes from level to level while pictures hear it as it came. Ours: coarsest
level first, so that the sound meets objects before textures; a pixel hears every second of its clip
and a second of sound sees every picture, both with sine time, so that each can find its own.
Trade-off: pixels as keys of the sound cost memory in proportion to T * h * w, and nothing squared.

Shapes: B clips, T frames, N = B*T, C channels, h x w pixels, S = T*h*w tokens of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from avs.models.attention import AttentionBlock, tokens_valid
from avs.models.positional_encoding import sine_time

__all__ = ["BilateralBlock", "EarlyIntegration", "HearingBlock", "clip_tokens", "frame_maps"]


class HearingBlock(nn.Module):
    """Pixels attend to the seconds of sound of their clip; residual and layer norm."""

    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        self.block = AttentionBlock(width, num_heads=num_heads)

    def forward(self, map_NChw: Tensor, audio_BTC: Tensor, *, frame_valid: Tensor | None) -> Tensor:
        """Same shape as the map. frame_valid: bool [B, T], False = sound of padding."""
        num_frames = audio_BTC.shape[1]
        time_TC = time_codes(audio_BTC)
        out_BSC = self.block(
            clip_tokens(map_NChw, num_frames=num_frames),
            audio_BTC,
            positions=pixel_times(time_TC, num_pixels=map_NChw.shape[-2:].numel()),
            memory_positions=time_TC,
            allowed=None if frame_valid is None else frame_valid.unsqueeze(1),
        )
        return frame_maps(out_BSC, like=map_NChw)


class BilateralBlock(nn.Module):
    """One level: the picture hears the sound while the sound looks at the picture."""

    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        self.hear = HearingBlock(width, num_heads=num_heads)
        self.look = AttentionBlock(width, num_heads=num_heads)

    def forward(
        self, map_NChw: Tensor, heard: Tensor, carried: Tensor, *, frame_valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Returns the map and ``carried`` anew, same shapes.

        heard: [B, T, C], the sound that pixels attend to. carried: [B, T, C], the sound as the
        levels before have left it, which attends to pixels. Neither sees the other's result.
        """
        num_pixels, num_frames = map_NChw.shape[-2:].numel(), heard.shape[1]
        time_TC = time_codes(heard)
        valid_BS = None
        if frame_valid is not None:
            valid_BS = tokens_valid(frame_valid, tokens_per_frame=num_pixels)
        looked_BTC: Tensor = self.look(
            carried,
            clip_tokens(map_NChw, num_frames=num_frames),
            positions=time_TC,
            memory_positions=pixel_times(time_TC, num_pixels=num_pixels),
            allowed=None if valid_BS is None else valid_BS.unsqueeze(1),
        )
        return self.hear(map_NChw, heard, frame_valid=frame_valid), looked_BTC


class EarlyIntegration(nn.Module):
    """A :class:`BilateralBlock` for each of the ``num_levels`` coarsest levels."""

    def __init__(self, width: int, *, num_levels: int, num_heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            BilateralBlock(width, num_heads=num_heads) for _ in range(num_levels)
        )

    def forward(
        self, levels: Sequence[Tensor], audio_BTC: Tensor, *, frame_valid: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """levels: [N, C, h, w] each, finest first -> the same, and the sound [B, T, C].

        Levels finer than the chosen ones pass through. frame_valid: bool [B, T], False = padding,
        which nobody attends to.
        """
        merged, carried_BTC = list(levels), audio_BTC
        for step, block in enumerate(self.blocks, start=1):
            merged[-step], carried_BTC = block(
                merged[-step], audio_BTC, carried_BTC, frame_valid=frame_valid
            )
        return merged, carried_BTC


def clip_tokens(map_NChw: Tensor, *, num_frames: int) -> Tensor:
    """The pixels of a clip's frames one after the other: [B, T * h * w, C]."""
    tokens_NSC = map_NChw.flatten(2).transpose(1, 2)
    return tokens_NSC.reshape(-1, num_frames * tokens_NSC.shape[1], tokens_NSC.shape[2])


def frame_maps(tokens_BSC: Tensor, *, like: Tensor) -> Tensor:
    """Undo :func:`clip_tokens`, to the shape of ``like``."""
    height, width = like.shape[-2:]
    return tokens_BSC.reshape(len(like), height * width, -1).transpose(1, 2).reshape(like.shape)


def time_codes(audio_BTC: Tensor) -> Tensor:
    """Sine positions of the seconds of sound, [T, C]."""
    return sine_time(audio_BTC.shape[1], channels=audio_BTC.shape[2], device=audio_BTC.device)


def pixel_times(time_TC: Tensor, *, num_pixels: int) -> Tensor:
    """The position of its second for each pixel, [T * h * w, C]."""
    return torch.repeat_interleave(time_TC, num_pixels, dim=0)
