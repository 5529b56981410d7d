"""Masked-attention transformer decoder of Mask2Former (Cheng et al., CVPR 2022).

Queries look at one level after the other, coarsest first, each only where its last predicted mask
lies; a query whose mask is empty there looks everywhere. Every layer predicts (deep
supervision), and so do the queries before the first layer. The same decoder serves frames
[N, C, h, w] and whole clips [N, C, T, h, w], whose queries then follow objects through time and
whose padded frames are not looked at. What differs between models is composed: layers and heads are
given, and ``after_layer`` may change the queries between layers (attention over time, a second look
at the sound). Resizing commutes with the product of queries and features, so masks for attention
are computed at each level's own size and never at stride 4. Trade-off: a pixel whose logit is 0 up
to rounding may fall on the other side than in the published order.

Shapes: N examples (frames or clips), Q queries, C channels, D mask channels, T frames, h x w
pixels, S = h*w or T*h*w tokens, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from avs.models.attention import AttentionBlock, FeedForwardBlock, open_rows, tokens_valid
from avs.models.positional_encoding import sine_image, sine_video

__all__ = [
    "LearnedQueries",
    "MaskedDecoder",
    "MaskedDecoderLayer",
    "Memory",
    "PredictionHeads",
    "SetPrediction",
]


@dataclass(kw_only=True, slots=True)
class SetPrediction:
    """What the queries say after one layer; None where the decoder has no such head.

    queries: [N, Q, C]. class_logits: [N, Q, K + 1], "no object" last. masks: logits [N, Q, h, w],
    or [N, Q, T, h, w] of a clip, at the size of the mask features.
    """

    queries: Tensor
    class_logits: Tensor | None = None
    masks: Tensor | None = None


@dataclass(kw_only=True, slots=True)
class Memory:
    """One level as a layer sees it: tokens and positions [N or 1, S, C], and which tokens are real
    (bool [N, S], None = all)."""

    tokens: Tensor
    positions: Tensor
    valid: Tensor | None


class LearnedQueries(nn.Module):
    """``content`` and ``positions``, [Q, C] each."""

    def __init__(self, num_queries: int, width: int) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.randn(num_queries, width))
        self.positions = nn.Parameter(torch.randn(num_queries, width))

    def forward(self, num_examples: int) -> Tensor:
        """Content for every example: [N, Q, C].

        Copied: a view of a parameter claims a gradient under no_grad too, where it has none, and
        torch's counter of operations stops at such a tensor.
        """
        return self.content.repeat(num_examples, 1, 1)


class PredictionHeads(nn.Module):
    """Class scores and mask embeddings of queries, behind one norm.

    num_classes: K without "no object"; None = no class head.
    """

    def __init__(self, width: int, *, num_classes: int | None, mask_width: int = 256) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.classes = None if num_classes is None else nn.Linear(width, num_classes + 1)
        self.masks = nn.Sequential(
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, mask_width),
        )

    def class_logits(self, queries_NQC: Tensor) -> Tensor | None:
        """[N, Q, K + 1]."""
        if self.classes is None:
            return None
        logits_NQK: Tensor = self.classes(self.norm(queries_NQC))
        return logits_NQK

    def mask_embeddings(self, queries_NQC: Tensor) -> Tensor:
        """[N, Q, D]."""
        embeddings_NQD: Tensor = self.masks(self.norm(queries_NQC))
        return embeddings_NQD


class MaskedDecoderLayer(nn.Module):
    """Look at the picture, then at the other queries of the example, then feed-forward."""

    def __init__(self, width: int, *, num_heads: int = 8, ffn_width: int = 2048) -> None:
        super().__init__()
        self.to_picture = AttentionBlock(width, num_heads=num_heads)
        self.to_queries = AttentionBlock(width, num_heads=num_heads)
        self.feed_forward = FeedForwardBlock(width, hidden_width=ffn_width)

    def forward(
        self, queries: Tensor, memory: Memory, *, positions: Tensor | None, allowed: Tensor | None
    ) -> Tensor:
        """queries: [N, Q, C]; positions broadcasts to it; allowed: bool [N, Q or 1, S]."""
        seen_NQC = self.to_picture(
            queries,
            memory.tokens,
            positions=positions,
            memory_positions=memory.positions,
            allowed=allowed,
        )
        out_NQC: Tensor = self.feed_forward(self.to_queries(seen_NQC, positions=positions))
        return out_NQC


class MaskedDecoder(nn.Module):
    """Queries and levels -> a prediction for each layer.

    layers: modules called like :class:`MaskedDecoderLayer`. heads: None = queries look everywhere
    and predictions hold nothing but queries.
    """

    def __init__(
        self,
        layers: Iterable[nn.Module],
        *,
        width: int,
        num_levels: int,
        heads: PredictionHeads | None,
    ) -> None:
        super().__init__()
        self.level_embedding = nn.Parameter(torch.randn(num_levels, width))
        self.layers = nn.ModuleList(layers)
        self.heads = heads

    def forward(
        self,
        queries: Tensor,
        levels: Sequence[Tensor],
        mask_features: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        frame_valid: Tensor | None = None,
        after_layer: Callable[[int, Tensor], Tensor] | None = None,
        every_layer: bool = True,
    ) -> list[SetPrediction]:
        """Decode.

        queries: [N, Q, C]; positions: theirs, broadcasts to [N, Q, C].
        levels: [N, C, h, w] or [N, C, T, h, w], finest first. mask_features: [N, D, h, w] or
        [N, D, T, h, w]; needed where there are heads.
        frame_valid: bool [N, T], for clips: False = padding. after_layer: gets the number of the
        layer and its queries [N, Q, C], returns queries for heads and next layer.
        every_layer: False = the last prediction alone, which is all that inference needs.
        Returns the predictions, first the one before any layer.
        """
        memories = [
            _memory(level, embedding, frame_valid)
            for level, embedding in zip(levels, self.level_embedding, strict=True)
        ]
        small = [_resized(mask_features, level) for level in levels] if self.heads else []
        predictions, embeddings = self._predict(queries, mask_features, wanted=every_layer)
        for place, layer in enumerate(self.layers):
            index = len(levels) - 1 - place % len(levels)
            allowed = _allowed(embeddings, small[index] if small else None, memories[index].valid)
            queries = layer(queries, memories[index], positions=positions, allowed=allowed)
            if after_layer is not None:
                queries = after_layer(place, queries)
            wanted = every_layer or place == len(self.layers) - 1
            made, embeddings = self._predict(queries, mask_features, wanted=wanted)
            predictions += made
        return predictions

    def _predict(
        self, queries: Tensor, mask_features: Tensor | None, *, wanted: bool
    ) -> tuple[list[SetPrediction], Tensor | None]:
        """The prediction, if wanted, and the mask embeddings for the next layer's attention."""
        if self.heads is None:
            return ([SetPrediction(queries=queries)] if wanted else []), None
        assert mask_features is not None, "heads need mask_features"
        embeddings_NQD = self.heads.mask_embeddings(queries)
        if not wanted:
            return [], embeddings_NQD
        prediction = SetPrediction(
            queries=queries,
            class_logits=self.heads.class_logits(queries),
            masks=_mask_logits(embeddings_NQD, mask_features),
        )
        return [prediction], embeddings_NQD


def _mask_logits(embeddings_NQD: Tensor, features: Tensor) -> Tensor:
    """Products of queries and pixels: [N, Q, h, w] or [N, Q, T, h, w]."""
    logits_NQS = embeddings_NQD @ features.flatten(2)
    return logits_NQS.reshape(*logits_NQS.shape[:2], *features.shape[2:])


def _memory(level: Tensor, embedding_C: Tensor, frame_valid: Tensor | None) -> Memory:
    channels, (height, width) = level.shape[1], level.shape[-2:]
    if level.ndim == 5:
        where = sine_video(level.shape[2], height, width, channels=channels, device=level.device)
    else:
        where = sine_image(height, width, channels=channels, device=level.device)
    valid = frame_valid
    if valid is not None:
        assert level.ndim == 5, "frame_valid is for clips; frames of a batch are all decoded"
        valid = tokens_valid(valid, tokens_per_frame=height * width)
    return Memory(
        tokens=level.flatten(2).transpose(1, 2) + embedding_C,
        positions=where.flatten(1).T.unsqueeze(0),
        valid=valid,
    )


def _resized(features: Tensor | None, level: Tensor) -> Tensor:
    """Mask features at the size of ``level``, without gradient: [N, D, S]."""
    assert features is not None, "heads need mask_features"
    folded = features.detach().flatten(1, -3)
    small = F.interpolate(folded, size=level.shape[-2:], mode="bilinear", align_corners=False)
    return small.reshape(*features.shape[:2], -1)


@torch.no_grad()
def _allowed(
    embeddings_NQD: Tensor | None, small_NDS: Tensor | None, valid_NS: Tensor | None
) -> Tensor | None:
    """Where each query may look: inside its own mask, and never at padding."""
    if embeddings_NQD is None or small_NDS is None:
        return None if valid_NS is None else valid_NS.unsqueeze(1)
    inside_NQS = embeddings_NQD @ small_NDS >= 0.0
    return open_rows(inside_NQS, key_valid=valid_NS)
