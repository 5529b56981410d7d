"""Operations are counted whatever runs them: oneDNN, fused attention, a gradient in a forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from avs.benchmark.flops import count_flops, count_parameters
from avs.models import ModelInput, build_model, c3n
from avs.models.attention import Attention
from avs.models.backbones import build_backbone
from avs.models.deformable_attention import DeformableAttention
from avs.models.masked_decoder import LearnedQueries
from avs.models.onednn_linear import use_onednn

TWO = 2  # a multiply-add


def _flops(net: nn.Module, *inputs: Any) -> int:
    def run() -> None:
        with torch.no_grad():
            net(*inputs)

    return count_flops(net, run)


def test_a_convolution_counts_its_groups_and_a_linear_layer_its_rows() -> None:
    convolution = nn.Conv2d(8, 6, 3, padding=1, groups=2)
    assert _flops(convolution, torch.ones(1, 8, 5, 7)) == TWO * 5 * 7 * 6 * 4 * 9
    assert _flops(nn.Linear(8, 6), torch.ones(2, 5, 8)) == TWO * 10 * 8 * 6


def test_a_product_through_onednn_counts() -> None:
    net = nn.Sequential(nn.Linear(512, 512))
    use_onednn(net)  # as on this machine or not: what counts is that none is lost
    assert _flops(net, torch.ones(64, 512)) == TWO * 64 * 512 * 512


@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention_counts_its_two_products(masked: bool) -> None:
    attention = Attention(32, num_heads=4)
    query, memory = torch.ones(2, 3, 32), torch.ones(2, 50, 32)
    allowed = (torch.arange(50) < 9).expand(2, 3, 50) if masked else None

    def run() -> None:
        with torch.no_grad():
            attention(query, memory, memory, allowed=allowed)

    projections = TWO * 32 * 32 * 2 * (3 + 50 + 50 + 3)
    products = 2 * TWO * 2 * 3 * 50 * 32
    assert count_flops(attention, run) == projections + products


def test_deformable_attention_counts_what_it_reads() -> None:
    attention = DeformableAttention(16, num_levels=2, num_heads=2, num_points=3)
    sizes, num_tokens = [(4, 4), (2, 2)], 20
    query, where = torch.ones(1, 7, 16), torch.rand(1, 7, 2)

    def run() -> None:
        with torch.no_grad():
            attention(query, where, torch.ones(1, num_tokens, 16), sizes=sizes)

    places = 2 * 2 * 3  # heads, levels, points
    linear = TWO * 16 * (7 * 2 * places + 7 * places + num_tokens * 16 + 7 * 16)
    corners = TWO * 7 * places * 4 * 8  # of as many channels as a head has
    assert count_flops(attention, run) == linear + corners


def test_parameters_that_a_module_hands_on_without_gradients_do_not_break_it() -> None:
    assert _flops(nn.Sequential(LearnedQueries(3, 4), nn.Linear(4, 5)), 2) == TWO * 2 * 3 * 4 * 5


def test_resnet_50_has_the_published_operations_and_parameters() -> None:
    backbone = build_backbone("resnet50", weights="random").eval()
    published, classifier = 4.09e9, 2048 * 1000  # multiply-adds, He et al. as torchvision counts
    flops = _flops(backbone, torch.zeros(1, 3, 224, 224))
    assert flops / TWO + classifier == pytest.approx(published, rel=2e-3)
    assert count_parameters(backbone) == 25_557_032 - classifier - 1000


def test_the_gradient_in_c3n_counts_in_every_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("c3n", backbone="resnet10t", num_classes=1, fusion_width=16).eval()
    x = ModelInput(
        frames=torch.randn(1, 2, 3, 64, 64),
        audio_embedding=torch.randn(1, 2, 128),
        audio_logits=torch.randn(1, 2, 527),
    )
    counted = _flops(model, x)
    assert count_flops(model, lambda: model(x)) == counted  # with gradients
    widths = model.get_submodule("backbone").channels
    monkeypatch.setattr(
        c3n, "class_attention", lambda *_, **__: [torch.zeros(2, w) for w in widths]
    )
    assert counted > 1.2 * _flops(model, x)
