"""Set losses: zero when all is right, nothing without ground truth, one loss on any ranks."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from avs.errors import ConfigError
from avs.models.masked_decoder import SetPrediction
from avs.models.matching import MatchingCosts, Targets
from avs.models.set_losses import SetLossConfig, SetLosses, set_losses

CONFIG = SetLossConfig(num_points=48, matching=MatchingCosts(num_points=32))
SIZE = (8, 12)
NUM_CLASSES, NUM_QUERIES = 3, 5


def objects(num: int, *, size: tuple[int, ...] = (16, 24)) -> Targets:
    return Targets(
        classes=torch.randint(0, NUM_CLASSES, (num,)), masks=torch.rand(num, *size) > 0.6
    )


def prediction(num: int, *, size: tuple[int, ...] = SIZE) -> SetPrediction:
    return SetPrediction(
        queries=torch.zeros(num, NUM_QUERIES, 1),
        class_logits=torch.randn(num, NUM_QUERIES, NUM_CLASSES + 1, requires_grad=True),
        masks=torch.randn(num, NUM_QUERIES, *size, requires_grad=True),
    )


def part(made: SetPrediction, where: slice) -> SetPrediction:
    assert made.class_logits is not None
    assert made.masks is not None
    return SetPrediction(
        queries=made.queries[where], class_logits=made.class_logits[where], masks=made.masks[where]
    )


def losses(
    predictions: list[SetPrediction], targets: list[Targets | None], **options: Any
) -> SetLosses:
    config = options.pop("config", CONFIG)
    return set_losses(
        predictions, targets, config=config, generator=torch.Generator().manual_seed(4), **options
    )


def gradients(made: SetPrediction) -> tuple[Tensor, Tensor]:
    assert made.class_logits is not None
    assert made.masks is not None
    assert made.class_logits.grad is not None
    assert made.masks.grad is not None
    return made.class_logits.grad, made.masks.grad


def test_a_perfect_prediction_costs_nothing() -> None:
    target = objects(3)
    class_logits = torch.full((1, NUM_QUERIES, NUM_CLASSES + 1), -50.0)
    class_logits[0, :, -1] = 50.0
    masks = torch.full((1, NUM_QUERIES, 16, 24), -20.0)
    for query, which in ((4, 0), (1, 1), (2, 2)):
        class_logits[0, query] = -50.0
        class_logits[0, query, target.classes[which]] = 50.0
        masks[0, query] = torch.where(target.masks[which], 20.0, -20.0)
    perfect = SetPrediction(queries=torch.zeros(0), class_logits=class_logits, masks=masks)
    # at the centres of pixels: between two of them a mask of 0 and 1 has no perfect logit
    centres = torch.cartesian_prod((torch.arange(24) + 0.5) / 24, (torch.arange(16) + 0.5) / 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "avs.models.set_losses.uncertain_points",
            lambda logits, **_: centres.expand(len(logits), -1, -1),
        )
        result = losses([perfect, perfect], [target], config=replace(CONFIG, num_points=384))
    assert result.loss.item() == pytest.approx(0.0, abs=1e-5)
    assert set(result.parts) == {"class", "mask_bce", "mask_dice"}


def test_without_sampling_noise_it_is_the_dense_formula() -> None:
    """Constant logits and truth: every point says the same as every pixel."""
    target = Targets(classes=torch.tensor([1]), masks=torch.ones(1, 16, 24))
    made = SetPrediction(
        queries=torch.zeros(0),
        class_logits=torch.randn(1, 1, 4),
        masks=torch.full((1, 1, *SIZE), 0.7),
    )
    result = losses([made], [target])
    assert made.class_logits is not None
    bce = F.softplus(torch.tensor(-0.7))
    inside = torch.tensor(0.7).sigmoid() * 48
    dice = 1 - (2 * inside + 1) / (inside + 48 + 1)
    entropy = F.cross_entropy(made.class_logits[0], torch.tensor([1]))
    torch.testing.assert_close(result.parts["mask_bce"], bce)
    torch.testing.assert_close(result.parts["mask_dice"], dice)
    torch.testing.assert_close(result.loss, 2 * entropy + 5 * bce + 5 * dice)


def test_no_ground_truth_gives_zero_with_a_graph() -> None:
    made = prediction(2)
    result = losses([made], [None, None])
    result.loss.backward()
    assert result.loss.item() == 0.0
    assert not any(gradient.any() for gradient in gradients(made))


def test_an_example_without_ground_truth_changes_nothing() -> None:
    made, targets = prediction(3), [objects(2), None, objects(1)]
    whole = losses([made], targets)
    kept = part(made, slice(0, 3, 2))
    torch.testing.assert_close(losses([kept], [targets[0], targets[2]]).loss, whole.loss)


def test_no_objects_makes_every_query_say_so() -> None:
    made = prediction(2)
    result = losses([made], [objects(0), objects(0)])
    result.loss.backward()
    class_gradient, mask_gradient = gradients(made)
    assert bool((class_gradient[..., -1] < 0).all())
    assert not mask_gradient.any()
    assert result.parts["mask_bce"].item() == 0.0


def test_order_of_queries_and_objects_changes_nothing() -> None:
    made, target = prediction(1), objects(3)
    order, turn = torch.randperm(NUM_QUERIES), torch.tensor([2, 0, 1])
    assert made.class_logits is not None
    assert made.masks is not None
    permuted = SetPrediction(
        queries=made.queries, class_logits=made.class_logits[:, order], masks=made.masks[:, order]
    )
    turned = Targets(classes=target.classes[turn], masks=target.masks[turn])
    torch.testing.assert_close(losses([permuted], [turned]).loss, losses([made], [target]).loss)


def test_layers_add_up() -> None:
    first, second, target = prediction(1), prediction(1), objects(2)
    generator = torch.Generator().manual_seed(4)
    both = set_losses([first, second], [target], config=CONFIG, generator=generator)
    generator = torch.Generator().manual_seed(4)
    alone = [
        set_losses([one], [target], config=CONFIG, generator=generator) for one in (first, second)
    ]
    torch.testing.assert_close(both.loss, alone[0].loss + alone[1].loss)
    assert both.parts == alone[1].parts


def test_one_seed_gives_one_loss() -> None:
    made, target = prediction(1), objects(2)
    assert torch.equal(losses([made], [target]).loss, losses([made], [target]).loss)
    other = set_losses([made], [target], config=CONFIG, generator=torch.Generator().manual_seed(5))
    assert not torch.equal(other.loss, losses([made], [target]).loss)


def test_unmatched_queries_can_be_let_off() -> None:
    made, target = prediction(1), objects(2)

    def let_off(_: SetPrediction, found: Any) -> Tensor:
        assert len(found[0].queries) == 2
        weight = torch.ones(1, NUM_QUERIES)
        weight[0, 0] = weight[0, found[0].queries] = 0.0
        return weight

    result = losses([made], [target], unmatched_weight=let_off)
    result.loss.backward()
    matched = set(result.matches[0].queries.tolist())
    touched = gradients(made)[0][0].abs().sum(dim=1) > 0
    assert touched.tolist() == [q in matched or q != 0 for q in range(NUM_QUERIES)]


@pytest.mark.parametrize("num_frames", [None, 3])
def test_pixels_that_do_not_count_have_no_influence(num_frames: int | None) -> None:
    time = () if num_frames is None else (num_frames,)
    target = objects(2, size=(*time, 16, 24))
    counted = torch.ones(*time, 16, 24, dtype=torch.bool)
    counted[..., 12:] = False  # the right half
    target.counted = counted
    made = prediction(1, size=(*time, *SIZE))
    before = losses([made], [target])
    before.loss.backward()
    mask_gradient = gradients(made)[1]
    assert mask_gradient[..., :6].any()
    assert not mask_gradient[..., 7:].any()
    target.masks = target.masks.clone()
    target.masks[..., 13:] ^= True
    torch.testing.assert_close(losses([made], [target]).loss, before.loss)


def test_half_precision_is_finite() -> None:
    made = prediction(2)
    assert made.class_logits is not None
    assert made.masks is not None
    rough = SetPrediction(
        queries=made.queries,
        class_logits=made.class_logits.bfloat16(),
        masks=made.masks.bfloat16() * 100,
    )
    with torch.autocast("cpu", torch.bfloat16):
        result = losses([rough], [objects(2), objects(0)])
    result.loss.backward()
    assert result.loss.dtype == torch.float32
    assert all(gradient.isfinite().all() for gradient in gradients(made))


def global_batch() -> tuple[list[SetPrediction], list[Targets | None]]:
    torch.manual_seed(8)
    return [prediction(4), prediction(4)], [objects(1), objects(0), None, objects(3)]


def one_rank(rank: int, world_size: int, folder: str) -> None:
    """The loss and gradient of this rank's share of the global batch, into a file."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store{world_size}", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    layers, targets = global_batch()
    mine = slice(rank, None, world_size)
    result = losses([part(layer, mine) for layer in layers], targets[mine])
    result.loss.backward()
    shared = [result.loss.detach(), *(g for layer in layers for g in gradients(layer))]
    for value in shared:
        dist.all_reduce(value)
        value /= world_size
    torch.save(shared, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_the_same_global_batch_gives_the_same_loss_on_two_ranks(tmp_path: Path) -> None:
    layers, targets = global_batch()
    alone = losses(layers, targets)
    alone.loss.backward()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=one_rank, args=(r, 2, str(tmp_path))) for r in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    expected = [alone.loss.detach(), *(g for layer in layers for g in gradients(layer))]
    for rank in range(2):
        shared = torch.load(tmp_path / f"rank{rank}.pt")
        for ours, wanted in zip(shared, expected, strict=True):
            torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "bad",
    [
        {"class_weight": -1.0},
        {"num_points": 0},
        {"oversample_ratio": 0.5},
        {"importance_ratio": 1.5},
    ],
)
def test_options_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    (key,) = bad
    with pytest.raises(ConfigError, match=key):
        SetLossConfig(**bad)
