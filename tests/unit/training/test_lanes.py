"""Fewer workers than were configured: the same steps of the same clips, and nothing lost."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import end_at, on_ranks, train_on_ranks
from small_configs import MEASURED, open_fusions, train_config
from torch import Tensor, nn

from avs.errors import ConfigError
from avs.losses import LossConfig
from avs.scale import ScaleConfig
from avs.training.checkpoint import load_checkpoint
from avs.training.config import CheckpointConfig, TrainConfig
from avs.training.lanes import lanes_of
from avs.training.loop import _steps
from avs.training.run import Run
from avs.training.state import TrainingState, Worker
from avs.training.step import take_step
from avs.training.tally import Tally

NUM_LANES = 4


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_lane_has_one_worker_and_the_first_has_the_most(world_size: int) -> None:
    dealt = [list(lanes_of(r, world_size=world_size, num_lanes=4)) for r in range(world_size)]
    assert sorted(lane for own in dealt for lane in own) == [0, 1, 2, 3]
    assert max(map(len, dealt)) == len(dealt[0]) == -(-4 // world_size)


@pytest.mark.parametrize("least", [0, 3])
def test_fewer_workers_than_one_or_more_than_all_are_refused(least: int) -> None:
    with pytest.raises(ConfigError, match=rf"scale\.min_workers={least}: between 1 and .*=2"):
        ScaleConfig(num_workers=2, cpus_per_worker=1, gpus_per_worker=0, min_workers=least)


def test_a_run_that_may_shrink_is_checked_at_its_smallest(tmp_path: Path) -> None:
    """CCFormer contrasts clips, so a lone worker needs two."""
    config = train_config(tmp_path, tmp_path, batch_size=1)
    model = replace(config.model, name="ccformer", options={"fusion_width": 16})
    scale = ScaleConfig(num_workers=2, cpus_per_worker=1, gpus_per_worker=0)
    replace(config, model=model, scale=scale)
    with pytest.raises(ConfigError, match=r"train\.batch_size"):
        replace(config, model=model, scale=replace(scale, min_workers=1))


def lanes_config(prepared: Path, out: Path, **changes: Any) -> TrainConfig:
    """Two steps of four lanes with a clip each in every epoch."""
    changes = {"batch_size": 1, "flip": True, **changes}
    config = train_config(prepared, out, **changes)
    return replace(config, loss=LossConfig(dice_weight=1.0, mapping_weight=0.5))


def one_step(config: TrainConfig, worker: Worker) -> dict[str, Tensor]:
    """Loss of all ranks and gradients of the first step, with statistics off."""
    state = TrainingState(config, worker)
    open_fusions(state.system)
    state.start_epoch(1)
    state.ddp.eval()
    batches, _ = next(iter(_steps(state, 1)))
    for (lane, _), batch in zip(state.parts, batches, strict=True):
        batch.mask_valid[:, lane + 1 :] = False  # another number of labelled frames in each lane
    losses = take_step(state, batches, 0.0, seed=0, num_steps=0)
    tally = Tally(epoch=1)
    tally.add(losses, step_s=1.0, waited_s=0.0)
    means = {k: torch.tensor(v) for k, v in tally.means(device=worker.device).items()}
    gradients = {n: p.grad for n, p in state.system.named_parameters() if p.grad is not None}
    return {**means, **gradients}


@pytest.mark.parametrize("world_size", [pytest.param(2, marks=pytest.mark.full), 3])
def test_a_step_of_four_lanes_is_the_same_on_any_number_of_workers(
    world_size: int, prepared: Path, tmp_path: Path
) -> None:
    config = lanes_config(prepared, tmp_path / "run")
    whole = one_step(config, Worker(num_lanes=NUM_LANES))
    assert {"loss", "bce", "dice", "mapping"} < whole.keys()
    assert sum(bool(value.any()) for value in whole.values()) > 20

    def work(worker: Worker) -> None:
        wrap = nn.parallel.DistributedDataParallel
        found = one_step(config, replace(worker, wrap=wrap, num_lanes=NUM_LANES))
        torch.save(found, tmp_path / f"rank{worker.rank}.pt")

    assert on_ranks(world_size, tmp_path / "ranks", work) == [0] * world_size
    for rank in range(world_size):
        found = torch.load(tmp_path / f"rank{rank}.pt")
        assert found.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_each_clip_is_seen_once_an_epoch_in_the_same_step(
    world_size: int, prepared: Path, tmp_path: Path
) -> None:
    config = lanes_config(prepared, tmp_path / "run")

    def steps(world_size: int) -> list[set[str]]:
        seen: list[set[str]] = [set(), set()]
        for rank in range(world_size):
            worker = Worker(rank=rank, world_size=world_size, num_lanes=NUM_LANES)
            for step, (batches, _) in enumerate(_steps(TrainingState(config, worker), 1)):
                seen[step] |= {clip_id for batch in batches for clip_id in batch.clip_ids}
        return seen

    found = steps(world_size)
    assert [len(clips) for clips in found] == [4, 4]
    assert not found[0] & found[1]
    assert found == steps(4)


def history(config: TrainConfig) -> list[dict[str, Any]]:
    lines = Run(config.out).read_metrics()
    return [{k: v for k, v in m.items() if k not in MEASURED} for m in lines]


@pytest.mark.parametrize("num", [2, 3])
def test_ranks_that_are_killed_inside_an_epoch_go_on_with_every_float(
    num: int, prepared: Path, tmp_path: Path
) -> None:
    saving = CheckpointConfig(every_steps=3)
    whole = replace(train_config(prepared, tmp_path / "whole", batch_size=1), checkpoint=saving)
    killed = replace(whole, out=str(tmp_path / "killed"))
    assert train_on_ranks(whole, num, tmp_path / "a", num_lanes=num) == [0] * num
    step = {2: 7, 3: 3}[num]  # of the second epoch, after a checkpoint inside it
    ended = train_on_ranks(killed, num, tmp_path / "b", num_lanes=num, hook=end_at(step))
    assert ended == [-signal.SIGKILL] * num
    assert Run(killed.out).last_uri() is not None
    assert train_on_ranks(killed, num, tmp_path / "c", num_lanes=num) == [0] * num
    assert len(history(whole)) == 2
    assert history(killed) == history(whole)
    first, second = (load_checkpoint(Run(c.out).epoch_uri(2)).weights for c in (whole, killed))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_run_goes_on_with_another_number_of_workers_inside_an_epoch(
    prepared: Path, tmp_path: Path
) -> None:
    saving = CheckpointConfig(every_steps=1)
    whole = replace(lanes_config(prepared, tmp_path / "whole"), checkpoint=saving)
    changing = replace(whole, out=str(tmp_path / "changing"))
    assert train_on_ranks(whole, 2, tmp_path / "a", num_lanes=NUM_LANES) == [0, 0]
    step = 3  # the second of the second epoch
    ended = train_on_ranks(changing, 2, tmp_path / "b", num_lanes=NUM_LANES, hook=end_at(step))
    assert ended == [-signal.SIGKILL] * 2
    assert train_on_ranks(changing, 3, tmp_path / "c", num_lanes=NUM_LANES) == [0] * 3
    wanted, found = history(whole), history(changing)
    assert found[0] == wanted[0]
    assert found[1]["loss"] == pytest.approx(wanted[1]["loss"], rel=1e-5)
    assert found[1]["parts"] == pytest.approx(wanted[1]["parts"], rel=1e-4)


def test_a_notice_to_one_rank_saves_the_step_of_all(prepared: Path, tmp_path: Path) -> None:
    config = train_config(prepared, tmp_path / "run", batch_size=1, epochs=1)

    def hook(rank: int, num_steps: int) -> None:
        if num_steps == 0 and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if num_steps == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    ended = train_on_ranks(config, 2, tmp_path / "a", num_lanes=2, hook=hook)
    assert ended == [-signal.SIGKILL] * 2
    # Told in the first step, shared after it, read after the second.
    assert Run(config.out).last_uri() == Run(config.out).step_uri(1, 2)
    assert train_on_ranks(config, 2, tmp_path / "b", num_lanes=2) == [0, 0]
    assert len(history(config)) == 1
