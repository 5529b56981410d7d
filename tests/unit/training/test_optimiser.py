"""The optimiser: Adam's numbers in its fast form, whichever device a checkpoint comes from."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from small_configs import model_config, train_config
from torch import nn

from avs.models import build_system
from avs.training.optimiser import adam, build_optimizer, load_state, set_learning_rate

SHAPES = ((64, 1, 3, 3), (24, 16, 3, 3), (7,), (40, 30), (1,))


def parameters(device: str = "cpu") -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator).to(device)) for s in SHAPES]


def take_steps(optimizer: torch.optim.Optimizer, *, seed: int, count: int = 5) -> None:
    """Gradients as convolutions on channels-last maps leave them."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for parameter in optimizer.param_groups[0]["params"]:
            gradient = torch.randn(parameter.shape, generator=generator)
            if gradient.dim() == 4:
                gradient = gradient.contiguous(memory_format=torch.channels_last)
            parameter.grad = gradient
        optimizer.step()


def plain(trained: list[nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(trained, fused=False, foreach=False, **options)


def assert_same(one: list[nn.Parameter], other: list[nn.Parameter]) -> None:
    for ours, expected in zip(one, other, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_steps_are_those_of_adam(weight_decay: float) -> None:
    ours, expected = parameters(), parameters()
    take_steps(adam(ours, learning_rate=1e-2, weight_decay=weight_decay), seed=1)
    take_steps(plain(expected, lr=1e-2, weight_decay=weight_decay), seed=1)
    assert_same(ours, expected)
    if not weight_decay:
        classic = parameters()
        take_steps(torch.optim.Adam(classic, lr=1e-2, foreach=False), seed=1)
        assert_same(ours, classic)


def test_the_fast_form_is_taken_where_it_is_right() -> None:
    assert adam(parameters(), learning_rate=1.0).param_groups[0]["fused"]
    assert not adam(parameters("meta"), learning_rate=1.0).param_groups[0]["fused"]
    turned = [nn.Parameter(torch.randn(40, 30).t())]
    assert not adam(turned, learning_rate=1.0).param_groups[0]["fused"]


def test_a_state_of_another_form_is_gone_on_with_in_this_one() -> None:
    expected = parameters()
    before = plain(expected, lr=1e-2, weight_decay=0.0)
    take_steps(before, seed=1)
    ours = copy.deepcopy(expected)
    after = adam(ours, learning_rate=1e-2)
    state = copy.deepcopy(before.state_dict())
    load_state(after, state)
    assert after.param_groups[0]["fused"]
    assert not state["param_groups"][0]["fused"]  # the caller's state is as it was
    take_steps(before, seed=2)
    take_steps(after, seed=2)
    assert_same(ours, expected)


def test_a_state_from_the_cpu_does_not_bring_its_form_along() -> None:
    saved = adam(parameters(), learning_rate=1.0)
    take_steps(saved, seed=1, count=1)
    other = adam(parameters("meta"), learning_rate=1.0)
    load_state(other, saved.state_dict())
    assert not other.param_groups[0]["fused"]
    assert {s["step"].device.type for s in other.state.values()} == {"cpu"}


def test_only_what_is_trained_is_and_the_sound_at_its_own_rate(tmp_path: Any) -> None:
    loop = train_config(tmp_path, tmp_path, audio_learning_rate_factor=0.5).train
    system = build_system(model_config())
    system.segmenter.backbone.requires_grad_(False)
    optimizer = build_optimizer(system, loop)
    set_learning_rate(optimizer, 0.4)
    assert [group["lr"] for group in optimizer.param_groups] == [0.4, 0.2]
    held = {p for group in optimizer.param_groups for p in group["params"]}
    assert held == {p for p in system.parameters() if p.requires_grad}
    frozen = build_system(model_config(audio_network="yamnet"))
    assert len(build_optimizer(frozen, loop).param_groups) == 1
