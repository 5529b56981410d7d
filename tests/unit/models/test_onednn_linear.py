"""Linear layers through oneDNN compute what torch's compute."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from avs.models import onednn_linear
from avs.models.onednn_linear import OneDnnLinear, is_worthwhile, use_onednn, use_torch

WIDE = (256, 192)  # inputs, outputs: with 2 x 64 rows above the least size


def pair(*, bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    plain = nn.Linear(*WIDE, bias=bias)
    ours = copy.deepcopy(plain)
    use_onednn(ours)
    assert type(ours) is OneDnnLinear
    return plain, ours


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the products that went through oneDNN."""
    calls: list[int] = []
    product = onednn_linear._product

    def counting(*args: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return product(*args)

    monkeypatch.setattr(onednn_linear, "_product", counting)
    return calls


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("permuted", [False, True])
def test_outputs_and_gradients_are_those_of_torch(
    bias: bool, permuted: bool, products: list[int]
) -> None:
    probe = torch.randn(2, 64, WIDE[1])
    x = torch.randn(64, 2, WIDE[0]).transpose(0, 1) if permuted else torch.randn(2, 64, WIDE[0])
    gradients = []
    for module in pair(bias=bias):
        given = x.clone(memory_format=torch.preserve_format).requires_grad_()
        out = module(given)
        wanted = [given, *module.parameters()]
        gradients.append([out, *torch.autograd.grad((out * probe).sum(), wanted)])
    assert len(products) == 3  # forward, to the input, to the weight
    for expected, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-5)


def test_a_frozen_weight_costs_no_product(products: list[int]) -> None:
    _, ours = pair()
    ours.requires_grad_(False)
    x = torch.randn(2, 64, WIDE[0], requires_grad=True)
    ours(x).sum().backward()
    assert x.grad is not None
    assert len(products) == 2


def test_a_gradient_is_computed_only_where_it_is_asked_for(products: list[int]) -> None:
    """As C3N's attention asks: for an activation, through layers that are trained."""
    plain, ours = pair()
    x = torch.randn(2, 64, WIDE[0], requires_grad=True)
    out = ours(x)
    (to_x,) = torch.autograd.grad(out.sum(), x, retain_graph=True)
    assert len(products) == 2
    torch.testing.assert_close(to_x, torch.autograd.grad(plain(x).sum(), x)[0])
    out.sum().backward(inputs=[ours.weight])  # then for the rest, through the same graph
    assert ours.weight.grad is not None
    assert ours.bias.grad is None
    out = ours(x.detach())
    products.clear()
    out.sum().backward()
    assert len(products) == 1


def test_weights_that_changed_since_the_forward_are_noticed() -> None:
    _, ours = pair()
    out = ours(torch.randn(2, 64, WIDE[0], requires_grad=True))
    with torch.no_grad():
        ours.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_a_row_does_not_depend_on_its_place() -> None:
    _, ours = pair()
    x = torch.randn(4, 64, WIDE[0])
    with torch.inference_mode():
        assert torch.equal(ours(x).flip(0), ours(x.flip(0)))


def test_what_is_no_plain_float32_product_takes_the_usual_way(products: list[int]) -> None:
    _, ours = pair()
    ours(torch.randn(1, 2, WIDE[0]))  # too small
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(torch.randn(2, 64, WIDE[0])).dtype == torch.bfloat16
    torch.export.export(ours, (torch.randn(2, 64, WIDE[0]),))
    copy.deepcopy(ours).double()(torch.randn(2, 64, WIDE[0], dtype=torch.float64))
    assert products == []


def test_only_plain_layers_change_and_names_stay() -> None:
    class Special(nn.Linear):
        """Somebody's own."""

    net = nn.Sequential(nn.Linear(4, 4), Special(4, 4), nn.ReLU())
    names = list(net.state_dict())
    use_onednn(net)
    assert [type(m) for m in net] == [OneDnnLinear, Special, nn.ReLU]
    assert list(net.state_dict()) == names
    use_torch(net)
    assert type(net[0]) is nn.Linear


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vendor_id : AuthenticAMD\nflags : avx2 avx512f", True),
        ("vendor_id : GenuineIntel\nflags : avx2 avx512f", False),
        ("vendor_id : AuthenticAMD\nflags : avx2", False),
    ],
)
def test_it_is_for_wide_vectors_of_other_makers(tmp_path: Path, text: str, expected: bool) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(text)
    assert is_worthwhile(info) == expected
    assert not is_worthwhile(tmp_path / "absent")
