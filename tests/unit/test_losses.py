"""Losses: the published rules, frames without ground truth, ignored pixels."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F  # noqa: N812

from avs.errors import ConfigError
from avs.losses import (
    DiceForm,
    LossConfig,
    LossKind,
    bce_first_frame,
    bce_masked,
    compute_loss,
    cross_entropy_masked,
    soft_dice,
)
from avs.models.types import ModelOutput

BINARY = LossConfig(kind=LossKind.BINARY, mapping_weight=0.5, dice_weight=1.0)
SEMANTIC = LossConfig(kind=LossKind.SEMANTIC, mapping_weight=0.5)


def output(num_classes: int = 1) -> ModelOutput:
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    return ModelOutput(
        logits=leaf(2, 3, num_classes, 8, 8),
        fused_maps=(leaf(2, 3, 4, 2, 2), leaf(2, 3, 4, 1, 1)),
        projected_audio=(leaf(2, 3, 4), None),
    )


def masks(num_classes: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, num_classes, (2, 3, 8, 8), generator=generator, dtype=torch.uint8)


def test_a_mask_on_the_first_frame_only_is_the_s4_rule() -> None:
    valid = torch.tensor([[True, False, False]] * 2)
    logits = output().logits.detach()
    expected = F.binary_cross_entropy_with_logits(logits[:, 0, 0], masks()[:, 0].float())
    torch.testing.assert_close(bce_masked(logits, masks(), valid), expected)
    torch.testing.assert_close(bce_first_frame(logits, masks()), expected)


def test_every_class_but_background_is_foreground_in_a_binary_loss() -> None:
    valid = torch.ones(2, 3, dtype=torch.bool)
    logits = output().logits
    assert torch.equal(bce_masked(logits, masks() * 7, valid), bce_masked(logits, masks(), valid))


@pytest.mark.parametrize(("config", "num_classes"), [(BINARY, 1), (SEMANTIC, 4)])
def test_no_ground_truth_gives_zero_with_a_graph(config: LossConfig, num_classes: int) -> None:
    result = output(num_classes)
    valid = torch.zeros(2, 3, dtype=torch.bool)
    loss = compute_loss(result, masks(), valid, config=config)["loss"]
    loss.backward()
    assert loss.item() == 0.0
    assert result.logits.grad is not None
    assert not result.logits.grad.any()


@pytest.mark.parametrize(("config", "num_classes"), [(BINARY, 1), (SEMANTIC, 4)])
def test_the_total_is_the_weighted_sum_and_frames_without_truth_do_not_count(
    config: LossConfig, num_classes: int
) -> None:
    valid = torch.tensor([[True, False, True], [False, True, True]])
    result, target = output(num_classes), masks(max(num_classes, 2))
    losses = compute_loss(result, target, valid, config=config)
    weights = {"mapping": 0.5}
    parts = {name: value for name, value in losses.items() if name != "loss"}
    total = sum(weights.get(name, 1.0) * value.item() for name, value in parts.items())
    assert losses["loss"].item() == pytest.approx(total)
    assert not any(value.requires_grad for value in parts.values())

    changed = target.clone()
    changed[~valid] = 0
    assert result.projected_audio is not None
    audio = result.projected_audio[0]
    assert audio is not None
    with torch.no_grad():
        result.logits[~valid] += 1.0
        audio[~valid] += 1.0
    again = compute_loss(result, changed, valid, config=config)
    assert again["loss"].item() == pytest.approx(total, rel=1e-5)


def test_ignored_pixels_do_not_count() -> None:
    logits = output(4).logits.detach()
    target = masks(4)
    valid = torch.ones(2, 3, dtype=torch.bool)
    target[:, :, 4:] = 255
    half = cross_entropy_masked(logits[..., :4, :], target[:, :, :4], valid)
    torch.testing.assert_close(cross_entropy_masked(logits, target, valid), half)
    target[:] = 255
    assert cross_entropy_masked(logits, target, valid).item() == 0.0


def test_dice_of_a_perfect_and_of_an_empty_frame() -> None:
    target = torch.zeros(1, 2, 8, 8, dtype=torch.uint8)
    target[0, 0, :4] = 1
    logits = (target.float() * 200 - 100)[:, :, None]
    first, second = torch.tensor([[True, False]]), torch.tensor([[False, True]])
    assert soft_dice(logits, target, first).item() == pytest.approx(0.0, abs=1e-6)
    assert soft_dice(logits, target, second).item() == pytest.approx(0.0, abs=1e-6)
    assert soft_dice(logits, target, second, form=DiceForm.C3N).item() == pytest.approx(-1.0)
    assert soft_dice(-logits, target, first).item() > 0.9


def test_the_mapping_term_is_zero_where_sound_and_picture_agree() -> None:
    result = output()
    assert result.fused_maps is not None
    flat = torch.zeros(2, 3, 4)
    agreeing = ModelOutput(
        logits=result.logits,
        fused_maps=(torch.ones(2, 3, 4, 2, 2),),
        projected_audio=(flat,),
    )
    valid = torch.ones(2, 3, dtype=torch.bool)
    assert compute_loss(agreeing, masks(), valid, config=BINARY)["mapping"].item() == pytest.approx(
        0.0, abs=1e-6
    )
    assert compute_loss(result, masks(), valid, config=BINARY)["mapping"].item() > 0.01


def test_the_mapping_term_of_a_loud_embedding_keeps_a_gradient() -> None:
    result = output()
    loud = (300.0 * torch.arange(24.0).reshape(2, 3, 4)).requires_grad_()  # softmax: 0, 0, 0, 1
    heard = ModelOutput(
        logits=result.logits, fused_maps=result.fused_maps, projected_audio=(loud, None)
    )
    valid = torch.ones(2, 3, dtype=torch.bool)
    loss = compute_loss(heard, masks(), valid, config=BINARY)["loss"]
    (gradient,) = torch.autograd.grad(loss, loud)
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": LossKind.BINARY, "mapping_weight": -1.0}, "mapping_weight=-1"),
        ({"kind": LossKind.BINARY, "bce_weight": 0.0}, "nothing to train on"),
        ({"kind": LossKind.SEMANTIC, "dice_weight": 1.0}, "dice_weight=1.0"),
    ],
)
def test_bad_weights_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LossConfig(**values)


def test_a_model_without_fusion_cannot_have_a_mapping_term() -> None:
    plain = ModelOutput(logits=output().logits)
    valid = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ConfigError, match="mapping_weight"):
        compute_loss(plain, masks(), valid, config=BINARY)
    with pytest.raises(ValueError, match="do not fit"):
        compute_loss(plain, masks()[..., :4], valid, config=BINARY)


def test_dice_of_c3n_is_as_its_code_has_it() -> None:
    logits, target = output().logits.detach(), masks()
    valid = torch.tensor([[True, True, False], [True, False, True]])
    frames = []
    for clip, frame in valid.nonzero().tolist():
        p, t = logits[clip, frame, 0].sigmoid(), (target[clip, frame] > 0).float()
        frames.append(2 * ((p * t).sum() + 1) / (p.sum() + t.sum() + 1))
    expected = 1 - torch.stack(frames).mean()
    torch.testing.assert_close(soft_dice(logits, target, valid, form=DiceForm.C3N), expected)


def test_the_cross_entropy_can_weigh_more_than_dice() -> None:
    valid = torch.ones(2, 3, dtype=torch.bool)
    config = LossConfig(bce_weight=1.5, dice_weight=1.0, dice_form=DiceForm.C3N)
    losses = compute_loss(output(), masks(), valid, config=config)
    total = 1.5 * losses["bce"] + losses["dice"]
    torch.testing.assert_close(losses["loss"].detach(), total)


@pytest.mark.parametrize("config", [BINARY, SEMANTIC])
def test_logits_of_autocast_are_summed_in_float32(config: LossConfig) -> None:
    result = output(1 if config.kind is LossKind.BINARY else 4)
    half = ModelOutput(
        logits=result.logits.detach().bfloat16(),
        fused_maps=result.fused_maps,
        projected_audio=result.projected_audio,
    )
    rounded = ModelOutput(
        logits=half.logits.float(),
        fused_maps=result.fused_maps,
        projected_audio=result.projected_audio,
    )
    valid = torch.ones(2, 3, dtype=torch.bool)
    losses = [
        compute_loss(x, masks(), valid, config=config)["loss"].detach() for x in (half, rounded)
    ]
    assert losses[0].dtype == torch.float32
    assert torch.equal(losses[0], losses[1])


def rows_of(result: ModelOutput, rows: slice) -> ModelOutput:
    """Some clips of an output."""
    assert result.fused_maps is not None
    assert result.projected_audio is not None
    return ModelOutput(
        logits=result.logits[rows],
        fused_maps=tuple(fused[rows] for fused in result.fused_maps),
        projected_audio=tuple(
            None if audio is None else audio[rows] for audio in result.projected_audio
        ),
    )


# All three labelled frames are in the first clip.
UNEVEN = torch.tensor([[True, True, True], [False, False, False]])


def one_rank(rank: int, folder: str) -> None:
    """Loss and gradient of one clip, shared as DDP shares them."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    values, rows = [], slice(rank, rank + 1)
    for config, num_classes in ((BINARY, 1), (SEMANTIC, 4)):
        whole, target = output(num_classes), masks(max(num_classes, 2))
        losses = compute_loss(rows_of(whole, rows), target[rows], UNEVEN[rows], config=config)
        losses["loss"].backward()
        values += [losses["loss"].detach(), whole.logits.grad]
    for value in values:
        assert value is not None
        dist.all_reduce(value)
        value /= 2
    torch.save(values, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_it_does_not_matter_on_which_rank_the_labelled_frames_are(tmp_path: Path) -> None:
    expected = []
    for config, num_classes in ((BINARY, 1), (SEMANTIC, 4)):
        whole, target = output(num_classes), masks(max(num_classes, 2))
        loss = compute_loss(whole, target, UNEVEN, config=config)["loss"]
        loss.backward()
        expected += [loss.detach(), whole.logits.grad]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=one_rank, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    for rank in range(2):
        shared = torch.load(tmp_path / f"rank{rank}.pt")
        for found, wanted in zip(shared, expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
