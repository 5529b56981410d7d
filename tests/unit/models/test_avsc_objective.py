"""AVSC's objective: what masks and categories say about objects and sound; any number of ranks."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from avsc_cases import tiny
from model_cases import truth_of, two_objects
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from avs.losses import LossConfig, LossKind, total_loss
from avs.models import ModelInput, Truth
from avs.models.avsc import AvscSegmenter
from avs.models.avsc_objective import frame_targets, hearing_loss

BINARY = LossConfig(dice_weight=1.0)


def binary_masks() -> Tensor:
    """Two clips of two frames; the second frame of the first clip is empty."""
    masks = torch.zeros(2, 2, 8, 8, dtype=torch.uint8)
    masks[0, 0, :4] = 1
    masks[1] = 1
    return masks


def said(truth: Truth, *, named: bool = True, kind: LossKind = LossKind.BINARY) -> list[object]:
    """Classes of each frame's objects, None where the frame teaches nothing."""
    targets = frame_targets(truth, kind=kind, named=named)
    return [None if target is None else target.classes.tolist() for target in targets]


def test_a_single_category_names_the_object_of_every_mask() -> None:
    truth = truth_of(binary_masks(), categories=[[0, 1, 0], [0, 0, 1]])
    assert said(truth) == [[1], [], [2], [2]]
    first = frame_targets(truth, kind=LossKind.BINARY, named=True)[0]
    assert first is not None
    assert torch.equal(first.masks[0], truth.masks[0, 0] > 0)


def test_several_categories_or_none_leave_it_open_which_object_a_mask_shows() -> None:
    truth = truth_of(binary_masks(), categories=[[1, 1, 0], [0, 0, 0]])
    assert said(truth) == [None, [], None, None]
    assert said(truth, named=False) == [[0], [], [0], [0]]


def test_frames_without_truth_teach_nothing() -> None:
    valid = torch.tensor([[True, False], [False, True]])
    truth = truth_of(binary_masks(), categories=[[0, 1, 0], [0, 0, 1]], mask_valid=valid)
    assert said(truth) == [[1], None, None, [2]]


def test_empty_masks_under_a_sound_from_elsewhere_do_not_say_that_nothing_is_there() -> None:
    truth = truth_of(binary_masks(), categories=[[0, 1, 0], [0, 0, 1]])
    truth.off_screen = torch.tensor([True, False])
    assert said(truth) == [None, None, [2], [2]]


def test_semantic_masks_give_an_object_for_each_class() -> None:
    masks = binary_masks()
    masks[0, 0, 4:] = 3
    masks[1, :, :2] = 255
    truth = truth_of(masks, categories=None)
    assert said(truth, kind=LossKind.SEMANTIC) == [[0, 2], [], [0], [0]]
    third = frame_targets(truth, kind=LossKind.SEMANTIC, named=True)[2]
    assert third is not None
    assert third.counted is not None
    assert not third.counted[:2].any()


def test_a_clip_is_heard_by_its_surest_real_frame() -> None:
    logits = torch.tensor([[[3.0, -1.0], [0.5, 2.0], [9.0, 9.0]]])
    truth = truth_of(
        torch.ones(1, 3, 8, 8, dtype=torch.uint8),
        categories=[[1, 0]],
        frame_valid=torch.tensor([[True, True, False]]),
    )
    expected = F.binary_cross_entropy_with_logits(
        torch.tensor([3.0, 2.0]), torch.tensor([1.0, 0.0]), reduction="sum"
    )
    torch.testing.assert_close(hearing_loss(logits, truth, named=True), expected)


def test_a_clip_without_names_is_silent_only_if_nothing_is_shown() -> None:
    logits = torch.zeros(1, 2, 3)
    shown = truth_of(torch.ones(1, 2, 8, 8, dtype=torch.uint8), categories=[[0, 0, 0]])
    empty = truth_of(torch.zeros(1, 2, 8, 8, dtype=torch.uint8), categories=[[0, 0, 0]])
    unknown = replace(empty, mask_valid=torch.zeros(1, 2, dtype=torch.bool))
    log_2 = pytest.approx(3 * 0.6931, abs=1e-3)
    assert hearing_loss(logits, shown, named=True).item() == 0.0
    assert hearing_loss(logits, empty, named=True).item() == log_2
    assert hearing_loss(logits, unknown, named=True).item() == 0.0


def test_without_names_a_clip_sounds_where_something_is_shown() -> None:
    masks = binary_masks()
    masks[1] = 0
    loss = hearing_loss(torch.full((2, 2, 1), 5.0), truth_of(masks, categories=None), named=False)
    heard, not_heard = F.softplus(torch.tensor(-5.0)), F.softplus(torch.tensor(5.0))
    torch.testing.assert_close(loss, (heard + not_heard) / 2)


def test_the_parts_add_up_and_their_weights_count() -> None:
    model, (x, truth) = tiny(sound_weight=2.0, silent_object_aware=False), two_objects()
    output = model(x)
    parts = total_loss(model, output, truth, config=BINARY)
    names = ("loss", "sound", "class", "mask_bce", "mask_dice", "bce", "dice")
    assert set(parts) == set(names)
    assert [name for name in names if parts[name].requires_grad] == ["loss"]
    doubled = total_loss(model, output, truth, config=replace(BINARY, dice_weight=2.0))
    torch.testing.assert_close(doubled["loss"] - parts["loss"], parts["dice"], atol=1e-4, rtol=0)
    model.objective_options = replace(model.objective_options, sound_weight=3.0)
    louder = total_loss(model, output, truth, config=BINARY)
    torch.testing.assert_close(louder["loss"] - parts["loss"], parts["sound"], atol=1e-4, rtol=0)
    named = tiny(sound_weight=2.0, class_weight=3.0, silent_object_aware=False)
    model.objective_options = replace(named.objective_options, sound_weight=2.0)
    one_more = total_loss(model, output, truth, config=BINARY)["loss"] - parts["loss"]
    assert one_more > parts["class"]  # which is the last layer's; each layer adds its own


def test_the_seed_of_a_step_decides_its_points() -> None:
    model, (x, truth) = tiny(silent_object_aware=False), two_objects()
    output = model(x)
    first, again, other = (
        total_loss(model, output, replace(truth, seed=seed), config=BINARY)["loss"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def global_batch() -> tuple[ModelInput, Truth]:
    """Four clips whose labelled frames and known categories lie unevenly."""
    x, truth = two_objects()
    assert truth.categories is not None
    frame_valid = torch.tensor([[True, True, True]] * 3 + [[True, True, False]])
    mask_valid = torch.tensor([[True] * 3, [True, False, False], [False] * 3, [True, True, False]])
    both = ModelInput(
        frames=torch.cat((x.frames, x.frames.flip(-1))),
        audio_embedding=torch.cat((x.audio_embedding, -x.audio_embedding)),
        frame_valid=frame_valid,
    )
    masks = torch.cat((truth.masks, truth.masks.flip(-1)))
    categories = [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]
    return both, truth_of(
        masks, categories=categories, mask_valid=mask_valid, frame_valid=frame_valid, seed=4
    )


class Wrapped(nn.Module):
    """Tensors in, as DDP wants them."""

    def __init__(self, model: AvscSegmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, sound: Tensor, frame_valid: Tensor) -> object:
        x = ModelInput(frames=frames, audio_embedding=sound, frame_valid=frame_valid)
        return self.model(x)


def run(model: AvscSegmenter, rows: slice, *, wrap: bool) -> list[Tensor]:
    """Loss, gradients and teacher of two steps on some clips of the global batch."""
    # Statistics of a batch are each rank's own; here they are fixed.
    model.backbone.eval()
    x, truth = global_batch()
    assert truth.categories is not None
    assert truth.frame_valid is not None
    assert x.frame_valid is not None
    mine = replace(
        truth,
        masks=truth.masks[rows],
        mask_valid=truth.mask_valid[rows],
        frame_valid=truth.frame_valid[rows],
        categories=truth.categories[rows],
        videos=truth.videos[rows],
    )
    wrapped = Wrapped(model)
    forward = nn.parallel.DistributedDataParallel(wrapped) if wrap else wrapped
    values: list[Tensor] = []
    for _ in range(2):
        model.zero_grad()
        output = forward(x.frames[rows], x.audio_embedding[rows], x.frame_valid[rows])
        loss = total_loss(model, output, mine, config=BINARY)["loss"]
        loss.backward()
        gradients = [p.grad for p in model.parameters()]
        assert all(g is not None for g in gradients)
        values += [loss.detach(), *(g.clone() for g in gradients if g is not None)]
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter -= 1e-3 * parameter.grad
        model.after_step()
    return [*values, *(v.float() for v in model.training_state().values())]


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    model = tiny()
    values = run(model, slice(rank, None, 2), wrap=True)
    num_each = 1 + len(list(model.parameters()))
    for place in (0, num_each):
        dist.all_reduce(values[place])
        values[place] /= 2
    torch.save(values, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_take_the_step_that_one_takes_and_use_every_parameter(tmp_path: Path) -> None:
    alone = run(tiny(), slice(None), wrap=False)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=one_rank, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for first, second, expected in zip(*ranks, alone, strict=True):
        assert torch.equal(first, second)
        torch.testing.assert_close(first, expected, atol=1e-4, rtol=1e-4)
