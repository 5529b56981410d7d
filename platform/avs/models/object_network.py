"""The object segmentation network of AVSC: backbone maps -> all objects of each frame.

Mask2Former's parts put together (Cheng et al., CVPR 2022): pixel decoder, learned queries, masked
decoder, a class and a mask for each query after every layer. Frames never see each other, so
neither does padding. No layer keeps statistics of a batch or drops anything at random: a copy of it
gives the same for the same weights, which the teacher of the silent-object-aware objective needs.

Shapes: N frames, Q queries, K categories, C channels, h x w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from avs.errors import ConfigError
from avs.models.masked_decoder import (
    LearnedQueries,
    MaskedDecoder,
    MaskedDecoderLayer,
    PredictionHeads,
    SetPrediction,
)
from avs.models.pixel_decoder import NUM_LEVELS, PixelDecoder

__all__ = ["ObjectNetwork", "ObjectNetworkOptions"]


@dataclass(kw_only=True, slots=True)
class ObjectNetworkOptions:
    """Sizes of the object network; the defaults are Mask2Former's.

    fusion_width, num_heads: of all attention. num_queries: how many objects a frame can have.
    encoder_layers, encoder_ffn_width, sampled_points: of the pixel decoder; points are sampled for
    each head and level. decoder_layers, ffn_width: of the masked decoder.
    """

    fusion_width: int = 256
    num_heads: int = 8
    num_queries: int = 100
    encoder_layers: int = 6
    encoder_ffn_width: int = 1024
    sampled_points: int = 4
    decoder_layers: int = 9
    ffn_width: int = 2048

    def __post_init__(self) -> None:
        for key in (
            *("num_heads", "num_queries", "encoder_layers", "encoder_ffn_width", "sampled_points"),
            *("decoder_layers", "ffn_width"),
        ):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)}: at least 1")
        width, heads = self.fusion_width, self.num_heads
        if width < 4 or width % 4 or width % heads:
            raise ConfigError(f"fusion_width={width}: a multiple of 4 and of num_heads={heads}")


class ObjectNetwork(nn.Module):
    """Four maps at strides 4, 8, 16, 32 -> a set of objects for each frame."""

    def __init__(
        self, in_channels: Sequence[int], *, num_categories: int, options: ObjectNetworkOptions
    ) -> None:
        super().__init__()
        width, heads = options.fusion_width, options.num_heads
        self.pixels = PixelDecoder(
            in_channels,
            width=width,
            mask_width=width,
            num_layers=options.encoder_layers,
            num_heads=heads,
            num_points=options.sampled_points,
            ffn_width=options.encoder_ffn_width,
        )
        self.decoder = MaskedDecoder(
            (
                MaskedDecoderLayer(width, num_heads=heads, ffn_width=options.ffn_width)
                for _ in range(options.decoder_layers)
            ),
            width=width,
            num_levels=NUM_LEVELS,
            heads=PredictionHeads(width, num_classes=num_categories, mask_width=width),
        )
        self.queries = LearnedQueries(options.num_queries, width)

    def forward(self, maps: Sequence[Tensor], *, every_layer: bool) -> list[SetPrediction]:
        """maps: [N, C_l, h_l, w_l], finest first.

        every_layer: a prediction before the first and after each layer, as training wants them;
        False = the last one alone.
        """
        seen = self.pixels(maps)
        predictions: list[SetPrediction] = self.decoder(
            self.queries(len(maps[0])),
            seen.levels,
            seen.mask_features,
            positions=self.queries.positions,
            every_layer=every_layer,
        )
        return predictions
