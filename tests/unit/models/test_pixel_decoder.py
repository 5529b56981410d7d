"""Pixel decoder: any size, frames apart, every parameter used."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from avs.models.pixel_decoder import (
    DeformableEncoder,
    LevelProjections,
    PixelDecoder,
    TopDownStep,
)

CHANNELS = (4, 6, 8, 10)


def backbone_maps(num: int = 2, size: tuple[int, int] = (64, 96)) -> list[Tensor]:
    """Maps as a backbone gives them: sides are rounded up."""
    return [
        torch.randn(num, channels, -(-size[0] // stride), -(-size[1] // stride))
        for channels, stride in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    ]


def decoder() -> PixelDecoder:
    return PixelDecoder(
        CHANNELS, width=16, mask_width=12, num_layers=2, num_heads=2, num_points=2, ffn_width=16
    )


@pytest.mark.parametrize("size", [(64, 96), (50, 70), (32, 32), (4, 8)])
def test_levels_keep_their_size_and_mask_features_have_stride_4(size: tuple[int, int]) -> None:
    maps = backbone_maps(size=size)
    features = decoder()(maps)
    assert [x.shape for x in features.levels] == [(2, 16, *x.shape[2:]) for x in maps[1:]]
    assert features.mask_features.shape == (2, 12, *maps[0].shape[2:])
    assert all(x.isfinite().all() for x in (*features.levels, features.mask_features))


@torch.no_grad()
def test_frames_do_not_see_each_other() -> None:
    model, maps = decoder(), backbone_maps(num=3)
    whole = model(maps)
    for x in maps:
        x[1] = torch.randn_like(x[1])
    changed = model(maps)
    pairs = [(whole.mask_features, changed.mask_features)]
    pairs += list(zip(whole.levels, changed.levels, strict=True))
    for before, after in pairs:
        assert torch.equal(before[[0, 2]], after[[0, 2]])
        assert not torch.allclose(before[1], after[1])


@torch.no_grad()
def test_levels_know_each_other() -> None:
    encoder = DeformableEncoder(8, num_layers=1, num_heads=2, num_points=2, ffn_width=8)
    maps = [torch.randn(1, 8, side, side) for side in (8, 4, 2)]
    before = encoder(maps)
    maps[2] = torch.randn(1, 8, 2, 2)
    assert not torch.allclose(before[0], encoder(maps)[0])


def test_every_parameter_has_a_gradient() -> None:
    model = decoder()
    for name, parameter in model.named_parameters():
        if name.endswith(("offsets.weight", "weights.weight")):  # zero at first: hide the query
            torch.nn.init.normal_(parameter, std=0.1)
    features = model(backbone_maps())
    sum(
        (x * torch.randn_like(x)).sum() for x in (*features.levels, features.mask_features)
    ).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@torch.no_grad()
def test_bfloat16_is_finite_and_close() -> None:
    model, maps = decoder(), backbone_maps()
    exact = model(maps).mask_features
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(maps).mask_features
    assert float((rough - exact).norm() / exact.norm()) < 0.05


def test_extra_levels_go_on_halving() -> None:
    projections = LevelProjections(CHANNELS, 16, num_extra_levels=2)
    levels = projections(backbone_maps(size=(128, 160)))
    assert [tuple(x.shape[2:]) for x in levels] == [
        (32, 40),
        (16, 20),
        (8, 10),
        (4, 5),
        (2, 3),
        (1, 2),
    ]
    assert all(x.shape[1] == 16 for x in levels)
    assert len(LevelProjections(CHANNELS, 16)(backbone_maps())) == 4


def test_a_step_up_adds_the_coarser_map() -> None:
    step = TopDownStep(4, 8)
    fine = torch.randn(1, 4, 6, 9)
    out = step(fine, torch.randn(1, 8, 2, 3))
    assert out.shape == (1, 8, 6, 9)
    assert not torch.allclose(out, step(fine, torch.randn(1, 8, 2, 3)))


# torch's own way of tracing an autograd function makes an instance, of which torch warns
@pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning")
def test_encoder_compiles_to_one_graph() -> None:
    encoder = DeformableEncoder(8, num_layers=1, num_heads=2, num_points=2, ffn_width=8)
    maps = [torch.randn(1, 8, side, side + 1) for side in (4, 2, 1)]
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    for ours, theirs in zip(compiled(maps), encoder(maps), strict=True):
        torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_a_level_of_one_pixel_still_says_what_it_was() -> None:
    """Also of one frame, in a narrow network: a norm over one value would leave nothing."""
    project = LevelProjections(CHANNELS, 16)
    one, other = (project([torch.randn(1, c, 1, 1) for c in CHANNELS]) for _ in range(2))
    for before, after in zip(one, other, strict=True):
        assert not torch.allclose(before, after, atol=1e-3)


def test_a_wide_network_has_the_published_groups() -> None:
    norms = [m for m in LevelProjections((64,), 256).modules() if isinstance(m, nn.GroupNorm)]
    assert [norm.num_groups for norm in norms] == [32]
