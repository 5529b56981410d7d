"""Layers of the BEATs encoder: positions by a convolution and by gated relative biases, DeepNorm.

Named as the published checkpoint. Attention goes through torch's fused kernel with the gated bias
as its mask: equal to the official scores, which are scaled down and up again only for float16.

Shapes: N examples, L tokens, D = 768 channels, H heads, E channels of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

__all__ = ["Encoder", "relative_buckets"]

WIDTH, HIDDEN_WIDTH = 768, 3072
NUM_HEADS = 12
NUM_BUCKETS, MAX_DISTANCE = 320, 800
POSITION_KERNEL, POSITION_GROUPS = 128, 16
GATE_WIDTH = 8


class Encoder(nn.Module):
    """Tokens [N, L, 768] -> tokens [N, L, 768]."""

    def __init__(self, *, num_layers: int) -> None:
        super().__init__()
        self.pos_conv = nn.Sequential(_PositionConv(), nn.GELU())
        self.layer_norm = nn.LayerNorm(WIDTH)
        residual_scale = (2 * num_layers) ** 0.25  # DeepNorm (Wang et al. 2022)
        self.layers = nn.ModuleList(
            _Layer(has_bias=place == 0, residual_scale=residual_scale)
            for place in range(num_layers)
        )

    def forward(self, x_NLD: Tensor) -> Tensor:
        positions_NLD = self.pos_conv(x_NLD.transpose(1, 2)).transpose(1, 2)
        x_NLD = self.layer_norm(x_NLD + positions_NLD)
        # One table for all layers; the official module lists it in each.
        table = self.get_submodule("layers.0.self_attn.relative_attention_bias")
        bias_HLL = table(relative_buckets(x_NLD.shape[1]).to(x_NLD.device)).permute(2, 0, 1)
        for layer in self.layers:
            x_NLD = layer(x_NLD, bias_HLL)
        return x_NLD


def relative_buckets(num_tokens: int) -> Tensor:
    """Bucket [L, L] of each key's distance from a query: exact when near, logarithmic when far.

    Half of the buckets are for keys after the query (T5, Raffel et al. 2020).
    """
    place_L = torch.arange(num_tokens)
    distance_LL = place_L[None, :] - place_L[:, None]
    half = NUM_BUCKETS // 2
    num_exact = half // 2
    size_LL = distance_LL.abs()
    far_LL = torch.log(size_LL.clamp(min=1).float() / num_exact)
    far_LL = far_LL / math.log(MAX_DISTANCE / num_exact) * (half - num_exact)
    far_LL = (num_exact + far_LL.long()).clamp(max=half - 1)
    return (distance_LL > 0).long() * half + torch.where(size_LL < num_exact, size_LL, far_LL)


class _PositionConv(nn.Module):
    """Grouped convolution over time whose weight is normalised over all but its taps."""

    def __init__(self) -> None:
        super().__init__()
        shape = (WIDTH, WIDTH // POSITION_GROUPS, POSITION_KERNEL)
        self.weight_v = nn.Parameter(torch.randn(shape) * math.sqrt(4 / (POSITION_KERNEL * WIDTH)))
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x_NDL: Tensor) -> Tensor:
        weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=(0, 1), keepdim=True))
        padding = POSITION_KERNEL // 2
        moved_NDL = F.conv1d(x_NDL, weight, self.bias, padding=padding, groups=POSITION_GROUPS)
        return moved_NDL[..., :-1]  # an even kernel gives one place too many


class _Layer(nn.Module):
    """Post-norm layer; DeepNorm makes its residual count more."""

    def __init__(self, *, has_bias: bool, residual_scale: float) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.self_attn = _GatedAttention(has_bias=has_bias)
        self.self_attn_layer_norm = nn.LayerNorm(WIDTH)
        self.fc1 = nn.Linear(WIDTH, HIDDEN_WIDTH)
        self.fc2 = nn.Linear(HIDDEN_WIDTH, WIDTH)
        self.final_layer_norm = nn.LayerNorm(WIDTH)

    def forward(self, x_NLD: Tensor, bias_HLL: Tensor) -> Tensor:
        attended_NLD = self.self_attn(x_NLD, bias_HLL)
        x_NLD = self.self_attn_layer_norm(self.residual_scale * x_NLD + attended_NLD)
        hidden_NLD = self.fc2(F.gelu(self.fc1(x_NLD)))
        out_NLD: Tensor = self.final_layer_norm(self.residual_scale * x_NLD + hidden_NLD)
        return out_NLD


class _GatedAttention(nn.Module):
    """Self-attention whose relative bias each query scales (WavLM, Chen et al. 2022)."""

    def __init__(self, *, has_bias: bool) -> None:
        super().__init__()
        head_width = WIDTH // NUM_HEADS
        self.k_proj, self.v_proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.q_proj, self.out_proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.grep_linear = nn.Linear(head_width, GATE_WIDTH)
        self.grep_a = nn.Parameter(torch.ones(1, NUM_HEADS, 1, 1))
        if has_bias:
            self.relative_attention_bias = nn.Embedding(NUM_BUCKETS, NUM_HEADS)

    def forward(self, x_NLD: Tensor, bias_HLL: Tensor) -> Tensor:
        query, key, value = (
            project(x_NLD).unflatten(2, (NUM_HEADS, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )  # each [N, H, L, E]
        halves_NHL2 = self.grep_linear(query).unflatten(-1, (2, -1)).sum(-1).sigmoid()
        update_NHL1, reset_NHL1 = halves_NHL2.chunk(2, dim=-1)
        gate_NHL1 = update_NHL1 * (reset_NHL1 * self.grep_a - 1.0) + 2.0
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=gate_NHL1 * bias_HLL)
        out_NLD: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out_NLD
