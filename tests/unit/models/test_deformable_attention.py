"""Deformable attention is the published formula, read point by point."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avs.errors import ConfigError
from avs.models.deformable_attention import (
    DeformableAttention,
    deformable_sample,
    pixel_centres,
)

SIZES = [(5, 3), (2, 4), (1, 1)]


def literal_reading(pixels: Tensor, place: Tensor) -> Tensor:
    """Bilinear value at one place (x, y) in 0..1 of pixels [h, w, E]; zeros outside."""
    height, width = pixels.shape[:2]
    x, y = place[0] * width - 0.5, place[1] * height - 0.5
    value = torch.zeros_like(pixels[0, 0])
    for row in (int(y.floor()), int(y.floor()) + 1):
        for column in (int(x.floor()), int(x.floor()) + 1):
            if 0 <= row < height and 0 <= column < width:
                share = (1 - (y - row).abs()) * (1 - (x - column).abs())
                value = value + share * pixels[row, column]
    return value


def literal_sample(
    value: Tensor, place: Tensor, weight: Tensor, *, sizes: list[tuple[int, int]]
) -> Tensor:
    """Loops over everything: the definition."""
    num, num_queries, heads, _, points = weight.shape
    levels = value.split([h * w for h, w in sizes], dim=1)
    examples = []
    for n in range(num):
        for q in range(num_queries):
            for m in range(heads):
                total = torch.zeros_like(value[n, 0, m])
                for level, (h, w) in enumerate(sizes):
                    pixels = levels[level][n, :, m].reshape(h, w, -1)
                    for p in range(points):
                        read = literal_reading(pixels, place[n, q, m, level, p])
                        total = total + weight[n, q, m, level, p] * read
                examples.append(total)
    return torch.stack(examples).reshape(num, num_queries, -1)


def gridded_sample(
    value: Tensor, place: Tensor, weight: Tensor, *, sizes: list[tuple[int, int]]
) -> Tensor:
    """The usual form without a CUDA build: ``grid_sample`` for each level, then the sum."""
    num, num_queries, heads = weight.shape[:3]
    read = []
    for level, (part, (h, w)) in enumerate(
        zip(value.split([h * w for h, w in sizes], dim=1), sizes, strict=True)
    ):
        maps = part.permute(0, 2, 3, 1).reshape(num * heads, -1, h, w)
        grid = (2 * place[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        read.append(F.grid_sample(maps, grid, align_corners=False))
    shares = weight.transpose(1, 2).reshape(num * heads, 1, num_queries, -1)
    summed = (torch.stack(read, dim=-2).flatten(-2) * shares).sum(dim=-1)
    return summed.view(num, -1, num_queries).transpose(1, 2)


def inputs(sizes: list[tuple[int, int]] = SIZES, **tensor: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Values, places of which a third lies outside, weights; 2 examples, 4 queries, 2 heads."""
    num_tokens = sum(h * w for h, w in sizes)
    shape = (2, 4, 2, len(sizes), 3)
    value = torch.randn(2, num_tokens, 2, 5, **tensor)
    place = torch.rand(*shape, 2, **tensor) * 1.6 - 0.3
    weight = torch.rand(shape, **tensor)
    return value.requires_grad_(), place.requires_grad_(), weight.requires_grad_()


@pytest.mark.parametrize("reference", [literal_sample, gridded_sample])
@pytest.mark.parametrize("sizes", [SIZES, [(4, 4)], [(1, 7), (6, 1)]])
def test_equals_the_reference_with_gradients(reference: Any, sizes: list[tuple[int, int]]) -> None:
    args = inputs(sizes)
    ours, theirs = deformable_sample(*args, sizes=sizes), reference(*args, sizes=sizes)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    probe = torch.randn_like(ours)
    gradients = torch.autograd.grad((ours * probe).sum(), args)
    expected = torch.autograd.grad((theirs * probe).sum(), args)
    for ours_one, theirs_one in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours_one, theirs_one, atol=1e-5, rtol=1e-5)


def test_gradients_equal_finite_differences() -> None:
    args = inputs([(3, 2), (2, 2)], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *a: deformable_sample(*a, sizes=[(3, 2), (2, 2)]), args, nondet_tol=1e-12
    )


def test_far_outside_lies_nothing() -> None:
    value, place, weight = inputs()
    far = torch.where(place > 0.5, place + 1e9, place - 1e9)
    read = deformable_sample(value, far, weight, sizes=SIZES)
    assert not read.any()


@pytest.mark.parametrize("axis", [0, 1])
def test_what_is_not_a_number_shows_in_the_result(axis: int) -> None:
    value, place, weight = (x.detach()[:, :, :1] for x in inputs())
    place[0, 0, 0, 0, 0, axis] = torch.nan
    read = deformable_sample(value, place, weight, sizes=SIZES)
    assert read[0, 0].isnan().any()
    assert read[1].isfinite().all()


def test_pixel_centres_read_their_own_pixel() -> None:
    value = torch.randn(1, 23, 1, 4)
    sizes = [(5, 3), (2, 4)]
    centres = pixel_centres(sizes).view(1, 23, 1, 1, 1, 2)
    for level, tokens in enumerate(value.split([15, 8], dim=1)):
        weight = torch.zeros(1, 23, 1, 2, 1)
        weight[:, :, :, level] = 1.0
        read = deformable_sample(value, centres.expand(-1, -1, -1, 2, -1, -1), weight, sizes=sizes)
        own = slice(0, 15) if level == 0 else slice(15, 23)
        torch.testing.assert_close(read[:, own], tokens.squeeze(2), atol=1e-5, rtol=0)


def test_layer_is_projections_around_the_reading() -> None:
    layer = DeformableAttention(8, num_levels=3, num_heads=2, num_points=2)
    torch.nn.init.normal_(layer.weights.weight)
    query, tokens = torch.randn(2, 4, 8), torch.randn(2, 24, 8)
    reference = torch.rand(1, 4, 2)
    out = layer(query, reference, tokens, sizes=SIZES)
    offset = layer.offsets(query).view(2, 4, 2, 3, 2, 2)
    scale = torch.tensor([(w, h) for h, w in SIZES]).view(3, 1, 2)
    place = reference.view(1, 4, 1, 1, 1, 2) + offset / scale
    weight = layer.weights(query).view(2, 4, 2, 6).softmax(-1).view(2, 4, 2, 3, 2)
    value = layer.value(tokens).view(2, 24, 2, 4)
    expected = layer.out(literal_sample(value, place, weight, sizes=SIZES))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_heads_start_in_directions_of_their_own() -> None:
    layer = DeformableAttention(8, num_levels=1, num_heads=4, num_points=2)
    offset = layer.offsets(torch.randn(1, 1, 8)).view(4, 2, 2)
    expected = [[[1, 0], [2, 0]], [[0, 1], [0, 2]], [[-1, 0], [-2, 0]], [[0, -1], [0, -2]]]
    torch.testing.assert_close(offset, torch.tensor(expected).float(), atol=1e-6, rtol=0)


@torch.no_grad()
def test_places_stay_exact_in_bfloat16() -> None:
    sizes = [(64, 64)]
    layer = DeformableAttention(8, num_levels=1, num_heads=2, num_points=2)
    torch.nn.init.normal_(layer.offsets.weight, std=0.3)
    layer.offsets.bias *= 10.0
    query, tokens = torch.randn(1, 50, 8), torch.randn(1, 4096, 8)
    reference = torch.rand(1, 50, 2)
    exact = layer(query, reference, tokens, sizes=sizes)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(query, reference, tokens, sizes=sizes)
    # places in bfloat16 would be up to an eighth of a pixel off: an error of about 0.1
    assert float((out - exact).norm() / exact.norm()) < 0.02


def test_result_does_not_depend_on_the_slot_in_the_batch() -> None:
    layer = DeformableAttention(16, num_levels=3, num_heads=2, num_points=2)
    query, tokens, reference = torch.randn(5, 9, 16), torch.randn(5, 24, 16), torch.rand(1, 9, 2)
    first = layer(query, reference, tokens, sizes=SIZES)
    turned = layer(query.roll(2, 0), reference, tokens.roll(2, 0), sizes=SIZES)
    assert torch.equal(turned.roll(-2, 0), first)


def test_sizes_and_heads_that_do_not_fit_are_refused() -> None:
    value, place, weight = inputs()
    with pytest.raises(ValueError, match="do not make 24 tokens"):
        deformable_sample(value, place, weight, sizes=[(5, 3), (2, 4), (1, 2)])
    with pytest.raises(ConfigError, match="num_heads=3"):
        DeformableAttention(8, num_levels=1, num_heads=3)
