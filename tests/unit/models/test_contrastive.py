"""Contrastive loss: a literal loop, who is a negative, one loss on any ranks, refusals."""

from __future__ import annotations

import math
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ccformer_cases import tiny, truth
from model_cases import clips
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.nn.parallel import DistributedDataParallel

from avs.errors import ConfigError
from avs.losses import LossConfig, total_loss
from avs.models import ModelInput
from avs.models.contrastive import (
    MAX_LOGIT_SCALE,
    ContrastiveHeads,
    contrastive_loss,
    foreground,
    pooled_by_mask,
)
from avs.models.micro_batches import micro_batch

NUM_CLIPS, NUM_FRAMES, WIDTH = 4, 3, 8
VIDEOS = [7, 3, 7, 5]
CHANGED = ("audio_embedding", "frames")


def embeddings() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    made = [
        F.normalize(torch.randn(NUM_CLIPS, NUM_FRAMES, WIDTH, generator=generator), dim=2)
        for _ in range(2)
    ]
    sound, picture = (x.requires_grad_() for x in made)
    return sound, picture, torch.tensor(9.0, requires_grad=True)


def some_padding() -> Tensor:
    valid = torch.ones(NUM_CLIPS, NUM_FRAMES, dtype=torch.bool)
    valid[1, 2] = valid[3, 1:] = False
    return valid


def literal(made: tuple[Tensor, Tensor, Tensor], valid: Tensor) -> Tensor:
    """The formula, anchor by anchor."""
    sound, picture, scale = made
    real = [(b, t) for b in range(NUM_CLIPS) for t in range(NUM_FRAMES) if valid[b, t]]
    total = torch.zeros(())
    for anchors, others in ((sound, picture), (picture, sound)):
        for i in real:
            positive = torch.exp(scale * anchors[i] @ others[i])
            negative = torch.zeros(())
            for j in real:
                if VIDEOS[i[0]] != VIDEOS[j[0]]:
                    negative = negative + torch.exp(scale * anchors[i] @ others[j])
            total = total - torch.log(positive / (positive + negative))
    return total / (2 * len(real))


@pytest.mark.parametrize("padded", [False, True])
def test_it_is_the_literal_formula_with_its_gradients(padded: bool) -> None:
    valid = some_padding() if padded else torch.ones(NUM_CLIPS, NUM_FRAMES, dtype=torch.bool)
    made, wanted = embeddings(), embeddings()
    loss = contrastive_loss(
        made, videos=torch.tensor(VIDEOS), frame_valid=valid if padded else None
    )
    expected = literal(wanted, valid)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(made, wanted, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-5)


def test_padding_is_neither_anchor_nor_negative() -> None:
    made, valid = embeddings(), some_padding()
    loss = contrastive_loss(made, videos=torch.tensor(VIDEOS), frame_valid=valid)
    loss.backward()
    for part in made[:2]:
        assert part.grad is not None
        assert not part.grad[~valid].any()
        assert part.grad[valid].any()


def test_a_clip_with_a_sound_from_elsewhere_is_neither_anchor_nor_negative() -> None:
    made, off_screen = embeddings(), torch.tensor([False, True, False, False])
    loss = contrastive_loss(
        made, videos=torch.tensor(VIDEOS), frame_valid=None, off_screen=off_screen
    )
    own = torch.ones(NUM_CLIPS, NUM_FRAMES, dtype=torch.bool)
    own[1] = False
    torch.testing.assert_close(loss, literal(made, own))
    loss.backward()
    assert all(part.grad is not None and not part.grad[1].any() for part in made[:2])


def test_a_part_that_is_not_there_is_compared_with_nothing() -> None:
    made = embeddings()
    with micro_batch(torch.tensor(0.5), there=False):
        loss = contrastive_loss(made, videos=torch.tensor(VIDEOS), frame_valid=None)
    loss.backward()
    assert all(part.grad is not None and not part.grad.any() for part in made)


def test_clips_of_one_video_have_nothing_to_learn() -> None:
    made = embeddings()
    loss = contrastive_loss(made, videos=torch.zeros(NUM_CLIPS), frame_valid=None)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(part.grad is not None and not part.grad.any() for part in made)


def test_what_agrees_costs_less() -> None:
    sound, picture, scale = embeddings()
    videos = torch.tensor(VIDEOS)
    together = contrastive_loss((sound, sound, scale), videos=videos, frame_valid=None)
    apart = contrastive_loss((sound, picture, scale), videos=videos, frame_valid=None)
    assert float(together.detach()) < float(apart.detach())


def test_the_scale_is_capped_and_can_still_go_down() -> None:
    heads = ContrastiveHeads(WIDTH, temperature=0.07)
    assert float(heads.logit_scale().detach()) == pytest.approx(1 / 0.07, rel=1e-5)
    with torch.no_grad():
        heads.log_scale.fill_(math.log(3 * MAX_LOGIT_SCALE))
    scale = heads.logit_scale()
    assert float(scale.detach()) == pytest.approx(MAX_LOGIT_SCALE, rel=1e-5)
    scale.backward()
    assert heads.log_scale.grad is not None
    assert float(heads.log_scale.grad) > 0.0


def test_pooling_looks_inside_the_mask_alone() -> None:
    map_NChw, mask = torch.randn(2, 5, 8, 12), torch.zeros(2, 1, 32, 48)
    mask[:, :, 8:24, 12:36] = 1.0
    pooled = pooled_by_mask([map_NChw], mask)
    inside = map_NChw[:, :, 2:6, 3:9].mean(dim=(2, 3))
    torch.testing.assert_close(pooled, inside, atol=0.01, rtol=0.01)
    nothing = pooled_by_mask([map_NChw], torch.zeros_like(mask))
    assert not nothing.any()
    both = pooled_by_mask([map_NChw, map_NChw[:, :, ::2, ::2]], mask)
    other = pooled_by_mask([map_NChw[:, :, ::2, ::2]], mask)
    torch.testing.assert_close(both, (pooled + other) / 2)


def test_foreground_of_one_class_and_of_many() -> None:
    logits = torch.tensor([[2.0], [-3.0]]).view(1, 2, 1, 1)
    torch.testing.assert_close(foreground(logits[:, :1]).squeeze(), torch.tensor(2.0).sigmoid())
    share = torch.tensor([2.0, -3.0]).softmax(0)[1]
    torch.testing.assert_close(foreground(logits).squeeze(), share)


@torch.no_grad()
def test_embeddings_are_of_what_has_not_met() -> None:
    """Where the mask is the same, the picture's does not know the sound, nor the other way."""
    model, x = tiny().eval(), clips()
    last = model.head.head[-1]
    assert isinstance(last, torch.nn.Conv2d)
    last.weight.zero_()
    before = model(x).embeddings
    louder, brighter = (replace(x, **{key: getattr(x, key) + 1.0}) for key in CHANGED)
    assert torch.equal(model(louder).embeddings[1], before[1])
    assert not torch.equal(model(louder).embeddings[0], before[0])
    assert torch.equal(model(brighter).embeddings[0], before[0])
    assert not torch.equal(model(brighter).embeddings[1], before[1])


def test_the_mask_is_not_taught() -> None:
    heads, logits = ContrastiveHeads(WIDTH, temperature=0.07), torch.randn(12, 1, 8, 8)
    logits.requires_grad_()
    maps = [torch.randn(12, WIDTH, 4, 4, requires_grad=True)]
    made = heads(torch.randn(NUM_CLIPS, NUM_FRAMES, WIDTH), maps, logits)
    contrastive_loss(made, videos=torch.tensor(VIDEOS), frame_valid=None).backward()
    assert logits.grad is None
    assert maps[0].grad is not None


@pytest.mark.parametrize("bcl_weight", [0.0, 0.1])
def test_a_step_of_one_clip_is_refused_before_anything_is_learnt(bcl_weight: float) -> None:
    model, x = tiny(bcl_weight=bcl_weight), clips(1)
    if not bcl_weight:
        assert total_loss(model, model(x), truth(x), config=LossConfig())["loss"] > 0
        return
    with pytest.raises(ConfigError) as caught:
        total_loss(model, model(x), truth(x), config=LossConfig())
    words = ("train.batch_size", "more workers", "model.options.bcl_weight=0")
    assert all(word in str(caught.value) for word in words)


def one_rank(rank: int, world_size: int, folder: str) -> None:
    """The loss and gradients of this rank's clips, and a clip a rank under the whole objective."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store{world_size}", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    made, mine = embeddings(), slice(rank * 2, rank * 2 + 2)
    own = (made[0][mine], made[1][mine], made[2])
    loss = contrastive_loss(
        own, videos=torch.tensor(VIDEOS)[mine], frame_valid=some_padding()[mine]
    )
    loss.backward()
    shared = [loss.detach(), *(part.grad for part in made)]
    for value in shared:
        dist.all_reduce(value)
        value /= world_size
    shared.append(objective_of(slice(rank, rank + 1)))
    torch.save(shared, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def objective_of(mine: slice) -> Tensor:
    """Loss and gradients of the whole model for these clips: means over the ranks, through DDP."""
    model, x = tiny().eval(), clips()  # batch norm in training would know this rank's clips alone
    model.training = True
    target = truth(x)
    target.mask_valid[0, 1:] = False  # ranks have different numbers of labelled frames
    x = ModelInput(frames=x.frames[mine], audio_embedding=x.audio_embedding[mine])
    for key in ("masks", "mask_valid", "videos"):
        setattr(target, key, getattr(target, key)[mine])
    ddp = DistributedDataParallel(model) if dist.is_initialized() else model
    for _ in range(2):  # DDP tells of unused parameters in the second step
        model.zero_grad()
        output = ddp(x)
        assert output.aux_logits is not None
        loss = total_loss(model, output, target, config=LossConfig(dice_weight=1.0))["loss"]
        loss.backward()
    shared = loss.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(shared)
        shared /= dist.get_world_size()
    return torch.cat([shared.view(1), *(p.grad.flatten() for p in model.parameters())])


def test_the_same_global_batch_gives_the_same_loss_on_two_ranks(tmp_path: Path) -> None:
    alone = embeddings()
    loss = contrastive_loss(alone, videos=torch.tensor(VIDEOS), frame_valid=some_padding())
    loss.backward()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=one_rank, args=(r, 2, str(tmp_path))) for r in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    expected = [loss.detach(), *(part.grad for part in alone), objective_of(slice(0, 2))]
    for rank in range(2):
        shared = torch.load(tmp_path / f"rank{rank}.pt")
        for ours, wanted in zip(shared, expected, strict=True):
            torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-4)
