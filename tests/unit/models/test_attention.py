"""Attention blocks: the formula, and masks that neither leak nor break."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from avs.errors import ConfigError
from avs.models.attention import (
    Attention,
    AttentionBlock,
    FeedForwardBlock,
    open_rows,
    tokens_valid,
)


def literal(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k / sqrt(E)) v, head by head."""
    q, k, v = attention.query(query), attention.key(key), attention.value(value)
    width = q.shape[-1] // attention.num_heads
    heads = []
    for head in range(attention.num_heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width)
        heads.append(scores.softmax(dim=-1) @ v[..., part])
    out: Tensor = attention.out(torch.cat(heads, dim=-1))
    return out


def test_attention_is_the_formula() -> None:
    attention = Attention(12, num_heads=3)
    query, key, value = torch.randn(2, 4, 12), torch.randn(2, 7, 12), torch.randn(2, 7, 12)
    torch.testing.assert_close(
        attention(query, key, value), literal(attention, query, key, value), atol=1e-6, rtol=1e-5
    )


def test_masked_keys_have_no_influence() -> None:
    block = AttentionBlock(8, num_heads=2)
    x, memory = torch.randn(2, 3, 8), torch.randn(2, 6, 8)
    valid = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    out = block(x, memory, allowed=valid.unsqueeze(1))
    torch.testing.assert_close(out[:1], block(x[:1], memory[:1, :4]))
    changed = memory.clone()
    changed[0, 4:] = 1e3
    assert torch.equal(block(x, changed, allowed=valid.unsqueeze(1)), out)


def test_a_row_that_may_look_nowhere_is_finite_with_its_gradient() -> None:
    block = AttentionBlock(8, num_heads=2)
    x, memory = torch.randn(1, 3, 8, requires_grad=True), torch.randn(1, 5, 8, requires_grad=True)
    allowed = torch.rand(1, 3, 5) > 0.5
    allowed[:, 1] = False
    out = block(x, memory, allowed=allowed)
    out.sum().backward()
    everywhere = block(x, memory)
    torch.testing.assert_close(out[:, 1], everywhere[:, 1])
    for value in (out, x.grad, memory.grad):
        assert value is not None
        assert value.isfinite().all()


def test_opening_keeps_to_valid_keys_where_there_are_any() -> None:
    allowed = torch.tensor([[[1, 0, 1], [0, 0, 1], [0, 0, 0]], [[1, 1, 1], [0, 1, 0], [0, 0, 0]]])
    valid = torch.tensor([[1, 1, 0], [0, 0, 0]]).bool()
    opened = open_rows(allowed.bool(), key_valid=valid)
    assert opened[0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 0]]
    assert opened[1].all(), "without any valid key, anything is better than nothing"


def test_positions_move_queries_and_keys_but_not_values() -> None:
    block = AttentionBlock(8, num_heads=2)
    x, places = torch.randn(1, 4, 8), torch.randn(4, 8)
    placed = x + places
    expected = block.norm(x + block.attention(placed, placed, x))
    assert torch.equal(block(x, positions=places), expected)


def test_blocks_are_finite_in_bfloat16() -> None:
    x = torch.randn(2, 4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = FeedForwardBlock(8, hidden_width=16)(AttentionBlock(8, num_heads=2)(x))
    assert out.isfinite().all()


def test_tokens_follow_their_frames() -> None:
    valid = torch.tensor([[True, False, True]])
    expected = [[True, True, False, False, True, True]]
    assert tokens_valid(valid, tokens_per_frame=2).tolist() == expected


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_heads=3"):
        Attention(8, num_heads=3)
