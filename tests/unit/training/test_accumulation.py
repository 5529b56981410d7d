"""A step is the same on one worker, on two and in parts: loss and gradients of a global batch."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from small_configs import AVSC_OPTIONS, model_config, open_fusions, train_config
from torch import Tensor, nn

from avs.losses import LossConfig, LossKind, compute_loss
from avs.models.dense_objective import semantic_dice
from avs.models.micro_batches import micro_batch, shares_of_step
from avs.models.types import ModelOutput
from avs.training.batch import Batch
from avs.training.config import TrainConfig
from avs.training.loop import _steps, train
from avs.training.resume import begin
from avs.training.run import Run
from avs.training.snapshot import commit, take_snapshot
from avs.training.state import TrainingState, Worker
from avs.training.step import take_step

# The labelled frames of the four clips of a step: none in one part, all in another.
LABELLED = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]) > 0


def step_config(prepared: Path, out: Path, **changes: Any) -> TrainConfig:
    config = train_config(prepared, out, flip=False, **changes)
    return replace(config, loss=LossConfig(dice_weight=1.0, mapping_weight=0.5))


def one_step(config: TrainConfig, worker: Worker) -> dict[str, Tensor]:
    """The rank's loss and the gradients of the first step, statistics and stochastic layers off."""
    state = TrainingState(config, worker)
    open_fusions(state.system)
    state.start_epoch(1)
    state.ddp.eval()
    batches, _ = next(iter(_steps(state, 1)))
    first = worker.rank * len(batches)
    label(batches, LABELLED[first * config.train.batch_size :])
    losses = take_step(state, batches, 0.0, seed=0, num_steps=0)
    gradients = {n: p.grad for n, p in state.system.named_parameters() if p.grad is not None}
    return {"loss": torch.tensor(losses["loss"]), **gradients}


def label(batches: Sequence[Batch], labelled: Tensor) -> None:
    for place, batch in enumerate(batches):
        size = len(batch.clip_ids)
        batch.mask_valid = labelled[place * size : (place + 1) * size]


def one_rank(rank: int, config: TrainConfig, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    wrap = nn.parallel.DistributedDataParallel
    found = one_step(config, Worker(rank=rank, world_size=2, wrap=wrap))
    dist.all_reduce(found["loss"])
    found["loss"] /= 2
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def on_two_ranks(config: TrainConfig, folder: Path) -> list[dict[str, Tensor]]:
    folder.mkdir()
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=one_rank, args=(rank, config, str(folder))) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5, msg=name)


def test_one_global_batch_has_one_loss_and_one_gradient_however_it_is_cut(
    prepared: Path, tmp_path: Path
) -> None:
    def config(**changes: Any) -> TrainConfig:
        return step_config(prepared, tmp_path / "run", **changes)

    whole = one_step(config(batch_size=4), Worker())
    assert float(whole["loss"]) > 0
    assert sum(bool(value.any()) for value in whole.values()) > 20
    for parts in (2, 4):
        cut = one_step(config(batch_size=4 // parts, accumulate_steps=parts), Worker())
        assert_same(cut, whole)
    for name, changes in (
        ("ranks", {"batch_size": 2}),
        ("both", {"batch_size": 1, "accumulate_steps": 2}),
    ):
        for found in on_two_ranks(config(**changes), tmp_path / name):
            assert_same(found, whole)


@pytest.mark.parametrize("kind", list(LossKind))
def test_parts_of_a_step_add_up_to_its_loss_for_every_mean_over_labelled_frames(
    kind: LossKind,
) -> None:
    generator = torch.Generator().manual_seed(0)
    num_classes = 1 if kind is LossKind.BINARY else 3
    config = LossConfig(
        kind=kind, mapping_weight=0.5, dice_weight=1.0 if kind is LossKind.BINARY else 0.0
    )
    logits = torch.randn(4, 5, num_classes, 16, 16, generator=generator)
    maps = torch.randn(4, 5, 6, 4, 4, generator=generator).relu()
    audio = torch.randn(4, 5, 6, generator=generator)
    masks = torch.randint(0, max(num_classes, 2), (4, 5, 16, 16), generator=generator).byte()

    def loss(rows: slice) -> Tensor:
        output = ModelOutput(
            logits=logits[rows], fused_maps=(maps[rows],), projected_audio=(audio[rows],)
        )
        total = compute_loss(output, masks[rows], LABELLED[rows], config=config)["loss"]
        if kind is LossKind.SEMANTIC:
            total = total + semantic_dice(logits[rows], masks[rows], LABELLED[rows])
        return total

    shares = shares_of_step(LABELLED.sum(dim=1))
    assert shares.tolist() == pytest.approx([3 / 9, 0.0, 5 / 9, 1 / 9])
    parts = torch.tensor(0.0)
    for row, share in enumerate(shares):
        with micro_batch(share):
            parts = parts + loss(slice(row, row + 1))
    torch.testing.assert_close(parts, loss(slice(0, 4)))


def test_a_step_without_any_label_has_equal_parts() -> None:
    assert shares_of_step(torch.zeros(4)).tolist() == [0.25] * 4


def test_a_run_in_parts_takes_each_clip_once_and_says_so(prepared: Path, tmp_path: Path) -> None:
    whole = TrainingState(step_config(prepared, tmp_path / "a", batch_size=4), Worker())
    config = step_config(prepared, tmp_path / "b", batch_size=2, accumulate_steps=2, epochs=1)
    cut = TrainingState(config, Worker())
    assert cut.num_steps == whole.num_steps == 2
    ids = [
        [clip_id for batch in batches for clip_id in batch.clip_ids]
        for state in (whole, cut)
        for batches, _ in _steps(state, 1)
    ]
    assert ids[:2] == ids[2:]
    assert len({clip_id for step in ids[2:] for clip_id in step}) == 8
    history = train(config, Worker())
    assert history[0]["loss"] > 0
    card = Path(Run(config.out).epoch_uri(1), "model_card.md").read_text()
    assert "4 clips (2 on each of 1 workers, 2 times a step)" in card


def test_gradients_are_shortened_to_the_norm_that_is_asked_for(
    prepared: Path, tmp_path: Path
) -> None:
    def norm(longest: float | None) -> float:
        config = step_config(prepared, tmp_path / "run", max_gradient_norm=longest)
        state = TrainingState(config, Worker())
        state.start_epoch(1)
        batches, _ = next(iter(_steps(state, 1)))
        take_step(state, batches, 0.0, seed=0, num_steps=0)
        gradients = [p.grad for p in state.system.parameters() if p.grad is not None]
        return float(nn.utils.get_total_norm(gradients))

    free = norm(None)
    assert norm(free / 10) == pytest.approx(free / 10, rel=1e-3)
    assert norm(free * 10) == free


def test_a_scaled_loss_changes_the_weights_as_one_that_is_not(
    prepared: Path, tmp_path: Path
) -> None:
    def weights(*, scaled: bool) -> dict[str, Tensor]:
        config = step_config(prepared, tmp_path / "run", max_gradient_norm=0.1)
        state = TrainingState(config, Worker())
        state.scaler = torch.amp.GradScaler("cpu", enabled=scaled)
        state.start_epoch(1)
        batches, _ = next(iter(_steps(state, 1)))
        take_step(state, batches, 1e-3, seed=0, num_steps=0)
        return state.system.state_dict()

    plain, scaled = weights(scaled=False), weights(scaled=True)
    for name, value in plain.items():
        torch.testing.assert_close(scaled[name], value, atol=1e-6, rtol=1e-5, msg=name)


def test_the_scale_of_the_loss_is_gone_on_with(prepared: Path, tmp_path: Path) -> None:
    config = step_config(prepared, tmp_path / "run")
    state, other = (TrainingState(config, Worker()) for _ in range(2))
    state.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    state.scaler.scale(torch.ones(1))  # it has no scale before it is first asked
    state.history = [{"epoch": 1, "loss": 1.0, "val_j": None, "val_f": None}]
    commit(take_snapshot(state, Run(config.out)), state, Run(config.out))
    other.scaler = torch.amp.GradScaler("cpu")
    begin(other, Run(config.out))
    assert other.scaler.get_scale() == 8.0


def test_what_follows_the_weights_follows_once_a_step(prepared: Path, tmp_path: Path) -> None:
    config = step_config(prepared, tmp_path, batch_size=1, accumulate_steps=2)
    config = replace(
        config, loss=LossConfig(), model=model_config(name="avsc", options=AVSC_OPTIONS)
    )
    state = TrainingState(config, Worker())
    state.start_epoch(1)
    batches, _ = next(iter(_steps(state, 1)))
    take_step(state, batches, 0.0, seed=0, num_steps=0)
    assert len(batches) == 2
    assert state.system.segmenter.teacher.num_steps == 1  # type: ignore[union-attr]


def test_a_network_that_takes_frames_one_by_one_is_spared_those_without_ground_truth(
    prepared: Path, tmp_path: Path
) -> None:
    config = step_config(prepared, tmp_path)
    config = replace(
        config, loss=LossConfig(), model=model_config(name="avsc", options=AVSC_OPTIONS)
    )
    state = TrainingState(config, Worker())
    state.start_epoch(1)
    batches, _ = next(iter(_steps(state, 1)))
    label(batches, LABELLED)
    seen: list[int] = []
    backbone = state.system.segmenter.get_submodule("backbone")
    backbone.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    take_step(state, batches, 0.0, seed=0, num_steps=0)
    assert seen == [int(batch.mask_valid.sum()) for batch in batches]
    assert sum(seen) < sum(batch.mask_valid.numel() for batch in batches)
