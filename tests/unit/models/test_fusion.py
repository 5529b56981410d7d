"""The factorised TPAVI block is the paper's N x N attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from avs.models.fusion import TpaviBlock


def literal_tpavi(block: TpaviBlock, x: Tensor, audio: Tensor | None) -> Tensor:
    """As published: x [B, C, T, h, w], keys for every pixel, an N x N matrix."""
    b, c, t, h, w = x.shape
    keys = x
    if audio is not None:
        keys = block.align(audio).permute(0, 2, 1)[..., None, None].expand(b, c, t, h, w)

    def pointwise(conv: torch.nn.Conv2d, value: Tensor) -> Tensor:
        return torch.nn.functional.conv3d(value, conv.weight[..., None], conv.bias).flatten(2)

    theta, phi, g = (
        pointwise(conv, v) for conv, v in ((block.theta, x), (block.phi, keys), (block.g, x))
    )
    attention = theta.transpose(1, 2) @ phi / (t * h * w)
    y = (attention @ g.transpose(1, 2)).transpose(1, 2).reshape(b, -1, t, h, w)
    y = pointwise(block.w_z, y).reshape(x.shape)
    y = torch.nn.functional.batch_norm(
        y, None, None, block.bn.weight, block.bn.bias, training=True, eps=block.bn.eps
    )
    return block.norm((x + y).permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)


@pytest.mark.parametrize("use_audio", [True, False])
def test_factorised_block_equals_the_literal_form_with_gradients(use_audio: bool) -> None:
    torch.manual_seed(3)
    block = TpaviBlock(16, audio_dim=12, audio_bias=True, use_audio=use_audio).train()
    torch.nn.init.normal_(block.bn.weight)
    torch.nn.init.normal_(block.bn.bias)
    block.double()  # batch norm magnifies float32 noise in gradients that are zero by theory
    x = torch.randn(2, 4, 16, 5, 7, dtype=torch.float64, requires_grad=True)
    audio = torch.randn(2, 4, 12, dtype=torch.float64) if use_audio else None
    probe = torch.randn(2, 4, 16, 5, 7, dtype=torch.float64)
    wanted = [x, *(p for p in block.parameters() if p.requires_grad)]

    ours, projected = block(x, audio)
    gradients = torch.autograd.grad((ours * probe).sum(), wanted)
    literal = literal_tpavi(block, x.transpose(1, 2), audio).transpose(1, 2)
    literal_gradients = torch.autograd.grad((literal * probe).sum(), wanted)

    assert (projected is not None) == use_audio
    torch.testing.assert_close(ours, literal, atol=1e-10, rtol=0)
    for ours_one, literal_one in zip(gradients, literal_gradients, strict=True):
        torch.testing.assert_close(ours_one, literal_one, atol=1e-8, rtol=1e-8)

    single, _ = block.float()(x.float(), None if audio is None else audio.float())
    torch.testing.assert_close(single.double(), literal, atol=1e-5, rtol=1e-5)


def test_block_starts_as_layer_norm() -> None:
    block = TpaviBlock(8, audio_dim=4, audio_bias=True, use_audio=True)
    x = torch.randn(1, 2, 8, 3, 3)
    fused, _ = block(x, torch.randn(1, 2, 4))
    normalised = torch.nn.functional.layer_norm(x.permute(0, 1, 3, 4, 2), (8,))
    torch.testing.assert_close(fused, normalised.permute(0, 1, 4, 2, 3))


@pytest.mark.parametrize("num_clips", [2, 3])
@pytest.mark.parametrize("use_audio", [True, False])
def test_a_clip_is_bit_equal_in_every_slot_of_a_batch(use_audio: bool, num_clips: int) -> None:
    """What is segmented alone, in a bucket or for a request must not differ in a bit."""
    torch.manual_seed(0)
    block = TpaviBlock(64, audio_dim=128, audio_bias=True, use_audio=use_audio).eval()
    torch.nn.init.normal_(block.bn.weight)
    x, others = torch.randn(5, 64, 3, 3), torch.randn(num_clips, 5, 64, 3, 3)
    audio, other_audio = torch.randn(5, 128), torch.randn(num_clips, 5, 128)
    fused = []
    for slot in range(num_clips):
        x_BTChw, audio_BTD = others.clone(), other_audio.clone()
        x_BTChw[slot], audio_BTD[slot] = x, audio
        fused.append(block(x_BTChw, audio_BTD if use_audio else None)[0][slot])
    assert all(torch.equal(fused[0], other) for other in fused[1:])
