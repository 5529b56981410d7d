"""Pixel decoder of CCFormer (arXiv 2510.10051): mask features that know time and sound.

Reconstructed: a deformable encoder over the three coarsest levels, then a feature pyramid in which
every level attends over time and to the sound. Ours: over time a pixel looks at its own place in
the other frames, T keys instead of T * h * w, which suits objects that stay where they are; what
moves is left to the queries, which look everywhere.

Shapes: B clips, T frames, N = B*T, C channels, h x w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from avs.models.attention import AttentionBlock
from avs.models.early_integration import HearingBlock
from avs.models.pixel_decoder import DeformableEncoder, PixelFeatures, TopDownStep
from avs.models.positional_encoding import sine_time

__all__ = ["NUM_ENCODED_LEVELS", "OverTimeBlock", "TemporalPixelDecoder"]

NUM_ENCODED_LEVELS = 3


class OverTimeBlock(nn.Module):
    """Each pixel attends to its own place in all frames of the clip; residual and layer norm."""

    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        self.block = AttentionBlock(width, num_heads=num_heads)

    def forward(self, map_NChw: Tensor, *, num_frames: int, frame_valid: Tensor | None) -> Tensor:
        """Same shape in and out. frame_valid: bool [B, T], False = without influence."""
        channels, height, width = map_NChw.shape[1:]
        x_BTCP = map_NChw.reshape(-1, num_frames, channels, height * width)
        x_ZTC = x_BTCP.permute(0, 3, 1, 2).flatten(0, 1)  # a place of a clip is an example
        allowed = None
        if frame_valid is not None:
            allowed = frame_valid.repeat_interleave(height * width, dim=0).unsqueeze(1)
        time_TC = sine_time(num_frames, channels=channels, device=map_NChw.device)
        out_ZTC: Tensor = self.block(x_ZTC, positions=time_TC, allowed=allowed)
        out_BPTC = out_ZTC.reshape(len(x_BTCP), -1, num_frames, channels)
        return out_BPTC.permute(0, 2, 3, 1).reshape(map_NChw.shape)


class PyramidLevel(nn.Module):
    """One step up, then over time, then to the sound."""

    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        self.up = TopDownStep(width, width)
        self.over_time = OverTimeBlock(width, num_heads=num_heads)
        self.hear = HearingBlock(width, num_heads=num_heads)

    def forward(
        self, fine: Tensor, coarse: Tensor, audio_BTC: Tensor, *, frame_valid: Tensor | None
    ) -> Tensor:
        """fine: [N, C, h, w]; coarse: [N, C, h', w'] -> [N, C, h, w]."""
        up_NChw = self.up(fine, coarse)
        seen_NChw = self.over_time(up_NChw, num_frames=audio_BTC.shape[1], frame_valid=frame_valid)
        out_NChw: Tensor = self.hear(seen_NChw, audio_BTC, frame_valid=frame_valid)
        return out_NChw


class TemporalPixelDecoder(nn.Module):
    """Levels of one width and the sound -> :class:`PixelFeatures`."""

    def __init__(
        self, width: int, *, num_levels: int, num_layers: int, num_heads: int, ffn_width: int
    ) -> None:
        super().__init__()
        self.encoder = DeformableEncoder(
            width,
            num_levels=NUM_ENCODED_LEVELS,
            num_layers=num_layers,
            num_heads=num_heads,
            ffn_width=ffn_width,
        )
        self.pyramid = nn.ModuleList(
            PyramidLevel(width, num_heads=num_heads) for _ in range(num_levels - NUM_ENCODED_LEVELS)
        )
        self.mask_features = nn.Conv2d(width, width, 1)

    def forward(
        self, levels: Sequence[Tensor], audio_BTC: Tensor, *, frame_valid: Tensor | None
    ) -> PixelFeatures:
        """levels: [N, C, h, w] each, finest first. frame_valid: bool [B, T], False = padding.

        Returns the encoded levels, the three coarsest, and mask features at the finest size.
        """
        encoded = self.encoder(levels[-NUM_ENCODED_LEVELS:])
        top_NChw = encoded[0]
        finer = reversed(levels[:-NUM_ENCODED_LEVELS])
        for step, fine_NChw in zip(self.pyramid, finer, strict=True):
            top_NChw = step(fine_NChw, top_NChw, audio_BTC, frame_valid=frame_valid)
        return PixelFeatures(levels=tuple(encoded), mask_features=self.mask_features(top_NChw))
