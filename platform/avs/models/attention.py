"""Attention blocks of the query-based models: post-norm, additive positions, safe masks.

Queries, keys and values have projections of their own and go through torch's fused kernel. A query
that may look nowhere is allowed to look everywhere: a softmax over nothing would be not a number.
Masks say where a query *may* look (True), as the kernel wants them; ``nn.MultiheadAttention`` and
Mask2Former say where it may not.

Shapes: N examples, Q queries, S keys, C channels; B clips, T frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from avs.errors import ConfigError

__all__ = ["Attention", "AttentionBlock", "FeedForwardBlock", "open_rows", "tokens_valid"]


class Attention(nn.Module):
    """Multi-head attention: queries [N, Q, C] to keys and values [N, S, C] -> [N, Q, C]."""

    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or width % num_heads:
            raise ConfigError(f"num_heads={num_heads} does not divide the width {width}")
        self.num_heads = num_heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        for projection in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query_NQC: Tensor,
        key_NSC: Tensor,
        value_NSC: Tensor,
        *,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """allowed: bool [N, Q or 1, S], False = without influence; None = every key."""
        query, key, value = (
            project(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for project, x in (
                (self.query, query_NQC),
                (self.key, key_NSC),
                (self.value, value_NSC),
            )
        )
        mask = None if allowed is None else open_rows(allowed).unsqueeze(1)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out_NQC: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out_NQC


class AttentionBlock(nn.Module):
    """norm(x + attention(x -> memory)); without a memory, x attends to itself."""

    def __init__(self, width: int, *, num_heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, num_heads=num_heads)
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        x_NQC: Tensor,
        memory_NSC: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        memory_positions: Tensor | None = None,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """Same shape as ``x_NQC``.

        positions, memory_positions: added to queries and keys, not to values; anything that
        broadcasts to [N, Q, C] and [N, S, C]. Without a memory, ``positions`` serve both.
        allowed: bool [N, Q or 1, S], False = without influence.
        """
        query_NQC = _placed(x_NQC, positions)
        if memory_NSC is None:
            key_NSC, memory_NSC = query_NQC, x_NQC
        else:
            key_NSC = _placed(memory_NSC, memory_positions)
        attended_NQC = self.attention(query_NQC, key_NSC, memory_NSC, allowed=allowed)
        out_NQC: Tensor = self.norm(x_NQC + attended_NQC)
        return out_NQC


class FeedForwardBlock(nn.Module):
    """norm(x + linear(ReLU(linear(x)))) over the last dimension."""

    def __init__(self, width: int, *, hidden_width: int) -> None:
        super().__init__()
        self.rise, self.fall = nn.Linear(width, hidden_width), nn.Linear(hidden_width, width)
        self.norm = nn.LayerNorm(width)
        for linear in (self.rise, self.fall):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x_NQC: Tensor) -> Tensor:
        """Same shape in and out."""
        out_NQC: Tensor = self.norm(x_NQC + self.fall(F.relu(self.rise(x_NQC))))
        return out_NQC


def open_rows(allowed: Tensor, *, key_valid: Tensor | None = None) -> Tensor:
    """Let queries that may look nowhere look at every valid key, or at all where none is valid.

    allowed: bool [N, Q, S], True = may look. key_valid: bool [N, S], False = padding.
    Returns bool [N, Q, S] with at least one True in each row.
    """
    if key_valid is not None:
        valid_N1S = key_valid.unsqueeze(1)
        allowed = allowed & valid_N1S
        allowed = torch.where(allowed.any(dim=-1, keepdim=True), allowed, valid_N1S)
    return allowed | ~allowed.any(dim=-1, keepdim=True)


def tokens_valid(frame_valid: Tensor, *, tokens_per_frame: int) -> Tensor:
    """[B, T] bool -> [B, T * tokens], for the tokens of a clip's frames one after the other."""
    return frame_valid.unsqueeze(-1).expand(-1, -1, tokens_per_frame).flatten(1)


def _placed(x: Tensor, positions: Tensor | None) -> Tensor:
    return x if positions is None else x + positions
