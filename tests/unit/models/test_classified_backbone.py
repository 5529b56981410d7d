"""Backbones that keep their classifier: timm's numbers, their checkpoints, Swin's windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from official_fill import params
from torch import Tensor, nn

from avs.errors import ConfigError, WeightsError
from avs.models import build_model, import_official
from avs.models.classified_backbone import build_classified_backbone
from avs.models.swin import swin_stage

SWIN = "swin_tiny_patch4_window7_224"


def build(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return build_classified_backbone(name, weights="random", options=options).eval()


@pytest.mark.parametrize("name", ["pvt_v2_b0", "mobilenetv2_050", "test_resnet"])
def test_maps_and_logits_are_those_of_timm(name: str) -> None:
    backbone, x = build(name), torch.randn(2, 3, 64, 96)
    seen = backbone(x)
    torch.testing.assert_close(seen.logits, backbone.net(x))
    whole = backbone.net.forward_intermediates(x, intermediates_only=True)[-4:]
    for ours, expected in zip(seen.maps, whole, strict=True):
        torch.testing.assert_close(ours, expected)
    assert backbone.channels == tuple(x.shape[1] for x in seen.maps)
    (gradient,) = torch.autograd.grad(seen.logits[:, 5].sum(), seen.blocks[:1])
    assert gradient.shape == seen.blocks[0].shape


def test_swin_equals_timm_where_one_window_does_not_cover_a_map() -> None:
    """Up to stage 3; in stage 4 the official form shifts within its only window, timm does not."""
    backbone, x = build(SWIN), torch.randn(1, 3, 224, 224)
    seen = backbone(x)
    reference = timm.create_model(SWIN).eval()
    reference.norm = nn.Identity()
    reference.load_state_dict(backbone.net.state_dict())
    expected = reference.forward_intermediates(x, intermediates_only=True)
    for stage in range(3):
        ours = seen.blocks[stage].permute(0, 3, 1, 2)
        torch.testing.assert_close(ours, expected[stage], atol=1e-4, rtol=1e-4)
    fourth = seen.blocks[3].permute(0, 3, 1, 2)
    assert not torch.allclose(fourth, expected[3], atol=1e-3)


@pytest.mark.parametrize("size", [(12, 12), (9, 16), (7, 7), (2, 3)])
@pytest.mark.parametrize("always_shift", [True, False])
def test_swins_shifted_windows_join_neighbours_only(
    size: tuple[int, int], always_shift: bool
) -> None:
    """Brute force: who may see whom, from positions, on maps that need padding or just fit."""
    backbone = build(SWIN)
    stage = backbone.net.layers[0]
    window = 7
    shift = 3 if always_shift or max(size) > window else 0
    x = torch.randn(1, *size, 96, requires_grad=True)

    def area(position: int, offset: int) -> int:
        return (position - offset) // window  # windows of a shifted map start at -4, 3, 10, ...

    def sees(row: int, column: int, other_row: int, other_column: int, offset: int) -> bool:
        return area(row, offset) == area(other_row, offset) and area(column, offset) == area(
            other_column, offset
        )

    out = swin_stage(stage, x, always_shift=always_shift)
    for row, column in ((0, 0), (size[0] - 1, size[1] - 1), (size[0] // 2, 1)):
        (gradient,) = torch.autograd.grad(out[0, row, column].sum(), x, retain_graph=True)
        reached = gradient[0].abs().sum(dim=-1) > 1e-9
        allowed = torch.zeros(size, dtype=torch.bool)
        for r in range(size[0]):
            for c in range(size[1]):
                if not sees(row, column, r, c, shift):
                    continue
                for r2 in range(size[0]):
                    for c2 in range(size[1]):
                        allowed[r2, c2] |= sees(r, c, r2, c2, 0)
        assert torch.equal(reached, allowed), (row, column)


def test_swin_has_the_norms_of_the_official_code_in_place_of_its_own() -> None:
    backbone = build(SWIN)
    assert [norm.normalized_shape[0] for norm in backbone.norms] == [96, 192, 384, 768]
    assert "net.norm.weight" not in backbone.state_dict()


@pytest.mark.parametrize("name", ["pvt_v2_b0", SWIN, "mobilenetv2_050"])
def test_weights_come_from_a_timm_checkpoint(name: str, tmp_path: Path) -> None:
    whole = timm.create_model(name)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    backbone = build_classified_backbone(name, weights=str(tmp_path / "whole.pth"))
    ours = backbone.net.state_dict()
    expected = {k: v for k, v in whole.state_dict().items() if not k.startswith("norm.")}
    assert set(ours) == set(expected)
    assert all(torch.equal(ours[key], value) for key, value in expected.items())


def test_weights_come_from_the_authors_swin_checkpoint(tmp_path: Path) -> None:
    whole = timm.create_model(SWIN).state_dict()
    authors = {authors_swin_name(name): value for name, value in whole.items()}
    authors["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    torch.save({"model": authors}, tmp_path / "swin.pth")
    backbone = build_classified_backbone(SWIN, weights=str(tmp_path / "swin.pth"))
    for name, value in backbone.net.state_dict().items():
        assert torch.equal(value, whole[name]), name


def authors_swin_name(name: str) -> str:
    for stage in (1, 2, 3):
        name = name.replace(f"layers.{stage}.downsample", f"layers.#{stage - 1}.downsample")
    return name.replace("#", "").replace("head.fc.", "head.")


def test_weights_without_a_classifier_are_refused(tmp_path: Path) -> None:
    state = timm.create_model("pvt_v2_b0").state_dict()
    del state["head.weight"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(WeightsError, match=r"less\.pth.*pvt_v2_b0 lack: head\.weight \(1\)"):
        build_classified_backbone("pvt_v2_b0", weights=str(tmp_path / "less.pth"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pvt_v2_b00", "not a timm model; known ones include .*pvt_v2_b0"),
        ("vit_tiny_patch16_224", r"vit_tiny_patch16_224.* are needed"),
    ],
)
def test_backbones_that_cannot_be_used(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name)


def test_drop_path_is_what_is_asked_for() -> None:
    for name in ("pvt_v2_b0", SWIN):
        assert not has_drop_path(build_classified_backbone(name, weights="random"))
        assert has_drop_path(build_classified_backbone(name, weights="random", drop_path=0.2))


def has_drop_path(module: nn.Module) -> bool:
    return any(type(part).__name__ == "DropPath" for part in module.modules())


@pytest.fixture(scope="module")
def pvt() -> nn.Module:
    return build_model("c3n", backbone="pvt_v2_b5", num_classes=1, similarity=torch.ones(1000, 527))


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {name: torch.zeros(()).expand(shape) for name, shape in params("c3n_pvt").items()}


def test_official_checkpoints_are_imported_whole_or_refused(
    pvt: Any, state: dict[str, Tensor]
) -> None:
    given = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    import_official(pvt, given)
    assert all(float(p.detach().abs().max()) == 0.0 for p in pvt.parameters())
    with pytest.raises(WeightsError, match=r"cannot place: surprise\.weight \(1\)"):
        import_official(pvt, state | {"surprise.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"another shape for: output_conv\.4\.weight"):
        import_official(pvt, state | {"output_conv.4.weight": torch.zeros(71, 32, 1, 1)})
    del state["encoder_backbone.head.bias"]
    with pytest.raises(WeightsError, match=r"lacks: encoder_backbone\.head\.bias \(1\)"):
        import_official(pvt, state)


def test_official_swin_index_buffers_may_be_absent_or_there() -> None:
    model = build_model(
        "c3n",
        backbone="swin_base_patch4_window7_224",
        num_classes=1,
        similarity=torch.ones(1000, 527),
    )
    names = params("c3n_swin")
    assert any(name.endswith("relative_position_index") for name in names)
    state = {name: torch.zeros(()).expand(shape) for name, shape in names.items()}
    import_official(model, state)
    import_official(model, {n: v for n, v in state.items() if "position_index" not in n})
    index = model.backbone.net.layers[0].blocks[0].attn.relative_position_index
    assert int(index.max()) == 168


def test_a_checkpoint_of_another_model_is_refused(pvt: Any) -> None:
    names = params("avs_s4_pvt")
    with pytest.raises(WeightsError, match=r"cannot place: .*in all\).*lacks"):
        import_official(pvt, {n: torch.zeros(()).expand(s) for n, s in names.items()})
