"""What every model of the table does: any clip and picture, padding, gradients, DDP, learning."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from model_cases import (
    awake,
    case_of,
    clips,
    known,
    learn,
    loss_of,
    overlap,
    small_model,
    sound_of,
    truth_of,
    two_objects,
    variants,
)
from small_configs import model_config
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from avs.losses import LossConfig, total_loss
from avs.models import MODELS, ModelInput, build_system

NAMES = sorted(MODELS)


@pytest.mark.parametrize("num_classes", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_learnt_in_which_only_the_sound_tells(name: str, num_classes: int) -> None:
    """Both clips show the same pictures, so without the sound J is at most 0.5."""
    case = case_of(name)
    model = small_model(name, num_classes=num_classes, **case.able)
    x, truth = two_objects()
    if num_classes > 1:
        kinds = torch.tensor([1, 3], dtype=torch.uint8).view(2, 1, 1, 1)
        truth = truth_of(truth.masks * kinds, categories=[[1, 0, 0], [0, 0, 1]])
    learn(
        model,
        x,
        truth,
        config=loss_of(num_classes),
        rate=case.rate,
        num_steps=case.num_steps[num_classes > 1],
    )
    with torch.no_grad():
        exact = model(x).logits
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x).logits.float()
    assert overlap(exact, truth.masks) > 0.9
    assert overlap(half, truth.masks) > 0.9
    error = float((half - exact).norm() / exact.norm())
    assert 0.0 < error < 0.1, error


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_any_number_of_frames_and_any_picture(name: str) -> None:
    model = awake(small_model(name)).eval()
    for num_frames, size in (
        *((1, (90, 122)), (3, (70, 101)), (7, (64, 64)), (60, (32, 32))),
        *((2, (32, 96)), (2, (160, 64))),
    ):
        logits = model(clips(1, num_frames=num_frames, size=size)).logits
        assert logits.shape == (1, num_frames, 1, *size)
        assert bool(logits.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_a_swin_learns_at_a_size_that_it_was_not_built_for(name: str) -> None:
    model = small_model(name, backbone="swin_tiny_patch4_window7_224")
    x = clips(num_frames=1, size=(52, 116))
    total_loss(model, model(x), known(x, num_classes=1), config=loss_of(1))["loss"].backward()
    table = "relative_position_bias_table"
    blocks = {n: p for n, p in model.named_parameters() if n.endswith(table) and p.requires_grad}
    assert len(blocks) == 12
    assert all(p.grad is not None and bool(p.grad.any()) for p in blocks.values())
    with torch.no_grad():
        assert model.eval()(clips(1, num_frames=3, size=(90, 122))).logits.isfinite().all()


def with_padding(x: ModelInput, num_padded: int, *, value: float) -> ModelInput:
    """``num_padded`` frames more, of which nothing is real."""
    num_clips, num_frames = x.frames.shape[:2]

    def longer(tensor: Tensor) -> Tensor:
        return torch.cat(
            [tensor, torch.full_like(tensor[:, :1], value).repeat_interleave(num_padded, 1)], 1
        )

    assert x.audio_logits is not None
    return ModelInput(
        frames=longer(x.frames),
        audio_embedding=longer(x.audio_embedding),
        audio_logits=longer(x.audio_logits),
        frame_valid=(torch.arange(num_frames + num_padded) < num_frames).expand(num_clips, -1),
    )


def learnt_from(model: nn.Module, x: ModelInput, *, config: LossConfig) -> tuple[Tensor, ...]:
    """Logits and loss of one step, and the gradients of all parameters."""
    model.zero_grad()
    output = model(x)
    truth = known(x, num_classes=output.logits.shape[2])
    loss = total_loss(model, output, truth, config=config)["loss"]
    loss.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return output.logits.detach(), loss.detach(), torch.cat(gradients)


@pytest.mark.parametrize(("name", "num_classes", "switch"), variants(), ids=str)
def test_padding_changes_neither_logits_nor_what_is_learnt(
    name: str, num_classes: int, switch: dict[str, Any]
) -> None:
    """Also in training, where batch norm counts frames."""
    case = case_of(name)
    model = awake(small_model(name, num_classes=num_classes, **(case.unpadded | switch)))
    config = loss_of(num_classes, mapping=case.maps_sound and "use_audio" not in switch)
    x = clips(size=(64, 64))
    for training in (False, True):
        model.train(training)
        logits, loss, gradient = learnt_from(model, x, config=config)
        assert bool(gradient.any())
        for num_padded, value in ((1, 0.0), (2, 5.0)):
            padded = with_padding(x, num_padded, value=value)
            longer = learnt_from(model, padded, config=config)
            torch.testing.assert_close(longer[0][:, :3], logits, atol=1e-5, rtol=1e-5)
            assert not longer[0][:, 3:].any()
            torch.testing.assert_close(longer[1], loss, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(longer[2], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_padding_may_differ_between_clips(name: str) -> None:
    """Down to a clip of nothing else."""
    model = awake(small_model(name, **case_of(name).unpadded)).eval()
    x = clips(3, num_frames=4)
    x.frame_valid = torch.tensor([[True] * 4, [True, True, False, False], [False] * 4])
    logits = model(x).logits
    for clip in (0, 1):
        real = x.frame_valid[clip]
        alone = ModelInput(
            frames=x.frames[clip, real][None],
            audio_embedding=x.audio_embedding[clip, real][None],
            audio_logits=x.audio_logits[clip, real][None],  # type: ignore[index]
        )
        torch.testing.assert_close(logits[clip, real], model(alone).logits[0], atol=1e-5, rtol=1e-5)
    assert not logits[~x.frame_valid].any()


@pytest.mark.parametrize("name", [name for name in NAMES if case_of(name).unpadded])
@torch.no_grad()
def test_as_published_padding_changes_the_others(name: str) -> None:
    model, x = awake(small_model(name)).eval(), clips()
    for num_padded in (1, 2):
        padded = model(with_padding(x, num_padded, value=5.0)).logits
        assert not torch.allclose(padded[:, :3], model(x).logits, atol=1e-3)
        assert not padded[:, 3:].any()


@pytest.mark.parametrize(("name", "num_classes", "switch"), variants(), ids=str)
def test_every_parameter_is_used_and_learns(
    name: str, num_classes: int, switch: dict[str, Any]
) -> None:
    model = awake(small_model(name, num_classes=num_classes, **switch))
    x = clips()
    learnt_from(model, x, config=loss_of(num_classes))
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    frozen = {n for n, _ in model.named_parameters()} - set(trained)
    assert [n for n in frozen if not re.match(case_of(name).frozen, n)] == []
    idle = [n for n, p in trained.items() if p.grad is None or not p.grad.any()]
    # a softmax does not see what all keys have in common
    assert [n for n in idle if not n.endswith("key.bias")] == []
    assert all(bool(p.grad.isfinite().all()) for p in trained.values() if p.grad is not None)


@pytest.fixture
def one_process() -> Iterator[None]:
    """A process group of one."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def train_in_parallel(
    name: str, num_classes: int, switch: dict[str, Any], *, unused: bool = False
) -> None:
    """Two steps of the whole system: DDP tells in the second what the first left unused."""
    torch.manual_seed(0)
    config = model_config(
        name=name,
        audio_network=sound_of(name),
        num_classes=num_classes,
        options=case_of(name).options | switch,
        category_names=["dog", "car", "bell"] if MODELS[name].names_categories else [],
    )
    system = build_system(config).train()
    if unused:
        system.segmenter.unused = nn.Parameter(torch.zeros(3))
    parallel = DistributedDataParallel(system)
    optimizer = torch.optim.SGD((p for p in system.parameters() if p.requires_grad), lr=1e-3)
    x = clips(num_frames=2, size=(64, 64))
    x.frame_valid = torch.tensor([[True, True], [True, False]])
    sound = torch.randn(2, 2, 1, 96, 64) - 2.0
    for _ in range(2):
        output = parallel(x.frames, sound, x.frame_valid)
        truth = known(x, num_classes=num_classes)
        losses = total_loss(system.segmenter, output, truth, config=loss_of(num_classes))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize(("name", "num_classes", "switch"), variants(), ids=str)
def test_distributed_training_misses_no_parameter(
    name: str, num_classes: int, switch: dict[str, Any]
) -> None:
    train_in_parallel(name, num_classes, switch)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_that_is_not_used_stops_distributed_training(name: str) -> None:
    with pytest.raises(RuntimeError, match="Expected to have finished reduction"):
        train_in_parallel(name, 1, {}, unused=True)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_operations_can_be_counted(name: str) -> None:
    model = small_model(name).eval()
    with FlopCounterMode(display=False) as counter:
        model(clips(1))
    assert counter.get_total_flops() > 0
