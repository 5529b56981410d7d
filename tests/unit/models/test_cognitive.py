"""The parts of C3N against their literal forms."""

from __future__ import annotations

import pytest
import torch
from official_fill import inp
from torch.nn import functional as F  # noqa: N812

from avs.models.aspp import Aspp
from avs.models.cognitive import attend, class_attention, consensus_scores


def literal_scores(
    v: torch.Tensor, a: torch.Tensor, similarity: torch.Tensor, alpha: float
) -> torch.Tensor:
    """The whole table p_i S_ij q_j of every frame."""
    p, q = torch.softmax(v, dim=1) ** alpha, torch.softmax(a, dim=1) ** alpha
    return p[:, :, None] * similarity * q[:, None, :]


def test_scores_equal_the_whole_table() -> None:
    v, a = 3 * inp("v", (6, 1000)), 2 * inp("a", (6, 527))
    similarity = inp("s", (1000, 527))
    table = literal_scores(v, a, similarity, 0.1)
    ours = consensus_scores(v, a, similarity, alpha=0.1)
    torch.testing.assert_close(ours, table.amax(dim=2))
    assert torch.equal(ours.argmax(dim=1), table.flatten(1).argmax(dim=1) // 527)


def test_a_class_that_the_network_lacks_never_takes_part() -> None:
    v, a = inp("v", (4, 1000)), inp("a", (4, 527))
    a[:, 300:] = -torch.inf
    a[1, :5] = -torch.inf  # another set in another frame
    similarity = -inp("s", (1000, 527)).abs()  # 0 times a lacking class would win over all
    ours = consensus_scores(v, a, similarity, alpha=0.1)
    for frame in range(4):
        known = a[frame].isfinite()
        expected = literal_scores(
            v[frame : frame + 1], a[frame : frame + 1, known], similarity[:, known], 0.1
        )
        torch.testing.assert_close(ours[frame], expected[0].amax(dim=1))
    assert float(ours.max()) < 0.0


def test_scores_are_float32_under_autocast_and_carry_no_gradient() -> None:
    v, a = inp("v", (2, 1000)).requires_grad_(), inp("a", (2, 527)).requires_grad_()
    similarity = inp("s", (1000, 527))
    exact = consensus_scores(v, a, similarity, alpha=0.1)
    assert not exact.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(consensus_scores(v, a, similarity, alpha=0.1), exact)


@pytest.mark.parametrize("channels_last", [True, False])
def test_attention_is_the_mean_gradient_of_the_target_of_unit_length(channels_last: bool) -> None:
    first = torch.randn(3, 4, 5, 8).requires_grad_()
    second = (first * 2).tanh()
    weight = torch.randn(10, 4 * 5 * 8)
    logits = second.flatten(1) @ weight.T
    target = torch.tensor([7, 0, 3])
    ours = class_attention(
        logits, target, [first, second], channels_last=channels_last, retain_graph=True
    )
    picked = logits[torch.arange(3), target].sum()
    axes = (1, 2) if channels_last else (2, 3)
    for attention, gradient in zip(ours, torch.autograd.grad(picked, [first, second]), strict=True):
        mean = gradient.mean(dim=axes)
        torch.testing.assert_close(attention, mean / mean.norm(dim=1, keepdim=True))
    assert first.grad is None


def test_attend_scales_channels_then_pixels() -> None:
    x, w = torch.randn(2, 3, 4, 5), torch.randn(2, 3)
    channels = x * torch.sigmoid(w)[:, :, None, None]
    expected = channels * torch.sigmoid(channels.mean(dim=1, keepdim=True))
    torch.testing.assert_close(attend(x, w), expected)


def literal_aspp(block: Aspp, x: torch.Tensor) -> torch.Tensor:
    """As published: five maps, concatenated."""
    pooled = block.pooled(F.adaptive_avg_pool2d(x, 1))
    pooled = F.interpolate(pooled, size=x.shape[-2:], mode="bilinear", align_corners=False)
    return block.out(torch.cat([pooled, block.point(x), *(d(x) for d in block.dilated)], dim=1))


@pytest.mark.parametrize("size", [(7, 7), (14, 20), (1, 2), (6, 19)])
def test_aspp_equals_the_literal_form_with_gradients(size: tuple[int, int]) -> None:
    block = Aspp(6, 10).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    probe = torch.randn(2, 10, *size, dtype=torch.float64)
    wanted = [x, *block.parameters()]
    ours, literal = block(x), literal_aspp(block, x)
    torch.testing.assert_close(ours, literal)
    gradients = torch.autograd.grad((ours * probe).sum(), wanted)
    expected = torch.autograd.grad((literal * probe).sum(), wanted)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other)
