"""Multi-query Transformer Module of CCFormer (arXiv 2510.10051): audio queries that look at their
frame and at each other through the whole clip.

Published: audio queries with a learnable part; frame-level and video-level relations modelled
together. Reconstructed: a query is a learned one plus the sound of its frame; a layer lets the
queries of a frame look at that frame and at each other (frame level), then the queries of all
frames at each other (video level). Ours: either level can be left out, with its parameters; without
the frame level queries know the picture only through the sound that has met it. Trade-off: the
video level compares T * Q queries with each other, quadratic in the length of a clip.

Shapes: B clips, T frames, N = B*T, Q queries a frame, C channels, h x w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from avs.models.attention import AttentionBlock, FeedForwardBlock, tokens_valid
from avs.models.masked_decoder import LearnedQueries, MaskedDecoder, MaskedDecoderLayer
from avs.models.positional_encoding import sine_time

__all__ = ["MultiQueryTransformer", "VideoLevelLayer"]


class VideoLevelLayer(nn.Module):
    """The queries of all frames of a clip attend to each other; feed-forward; post-norm."""

    def __init__(self, width: int, *, num_heads: int, ffn_width: int) -> None:
        super().__init__()
        self.attention = AttentionBlock(width, num_heads=num_heads)
        self.feed_forward = FeedForwardBlock(width, hidden_width=ffn_width)

    def forward(
        self,
        queries_NQC: Tensor,
        *,
        positions_QC: Tensor,
        num_frames: int,
        frame_valid: Tensor | None,
    ) -> Tensor:
        """Same shape in and out. positions_QC: of a frame's queries; their second is added here.

        frame_valid: bool [B, T], False = queries of padding, which nobody looks at.
        """
        num_queries, channels = queries_NQC.shape[1:]
        time_TC = sine_time(num_frames, channels=channels, device=queries_NQC.device)
        allowed = None
        if frame_valid is not None:
            allowed = tokens_valid(frame_valid, tokens_per_frame=num_queries).unsqueeze(1)
        related = self.attention(
            queries_NQC.reshape(-1, num_frames * num_queries, channels),
            positions=(time_TC.unsqueeze(1) + positions_QC).flatten(0, 1),
            allowed=allowed,
        )
        out_NQC: Tensor = self.feed_forward(related).reshape(queries_NQC.shape)
        return out_NQC


class MultiQueryTransformer(nn.Module):
    """Sound and encoded levels -> queries after each layer.

    use_frame_level, use_video_level: what a layer consists of; one of them at least.
    """

    def __init__(
        self,
        width: int,
        *,
        num_queries: int,
        num_layers: int,
        num_levels: int,
        num_heads: int,
        ffn_width: int,
        use_frame_level: bool,
        use_video_level: bool,
    ) -> None:
        super().__init__()
        assert use_frame_level or use_video_level, "a layer must do something"
        self.num_layers = num_layers
        self.queries = LearnedQueries(num_queries, width)
        self.frame_level: MaskedDecoder | None = None
        if use_frame_level:
            layers = (
                MaskedDecoderLayer(width, num_heads=num_heads, ffn_width=ffn_width)
                for _ in range(num_layers)
            )
            self.frame_level = MaskedDecoder(layers, width=width, num_levels=num_levels, heads=None)
        self.video_level = nn.ModuleList(
            VideoLevelLayer(width, num_heads=num_heads, ffn_width=ffn_width)
            for _ in range(num_layers if use_video_level else 0)
        )

    def forward(
        self,
        levels: Sequence[Tensor],
        audio_BTC: Tensor,
        *,
        frame_valid: Tensor | None,
        every_layer: bool,
    ) -> list[Tensor]:
        """Queries [N, Q, C] after each layer, or after the last alone.

        levels: [N, C, h, w] each, finest first. frame_valid: bool [B, T], False = padding.
        """
        queries_NQC = self.queries.content + audio_BTC.flatten(0, 1).unsqueeze(1)

        def relate(place: int, queries: Tensor) -> Tensor:
            return self._relate(
                place, queries, num_frames=audio_BTC.shape[1], frame_valid=frame_valid
            )

        if self.frame_level is None:
            made = []
            for place in range(self.num_layers):
                queries_NQC = relate(place, queries_NQC)
                made.append(queries_NQC)
            return made if every_layer else made[-1:]
        predictions = self.frame_level(
            queries_NQC,
            levels,
            positions=self.queries.positions,
            after_layer=relate,
            every_layer=every_layer,
        )
        return [p.queries for p in predictions[-self.num_layers :]]  # not those before any layer

    def _relate(
        self, place: int, queries_NQC: Tensor, *, num_frames: int, frame_valid: Tensor | None
    ) -> Tensor:
        """The video level of layer ``place``."""
        if not self.video_level:
            return queries_NQC
        related_NQC: Tensor = self.video_level[place](
            queries_NQC,
            positions_QC=self.queries.positions,
            num_frames=num_frames,
            frame_valid=frame_valid,
        )
        return related_NQC
