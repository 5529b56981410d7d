"""What the loop takes from the plan: the same clips whoever is slow, however many workers live."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_configs import train_config

from avs.training.batch import Batch
from avs.training.feed import ClipReader, prefetch
from avs.training.loop import _steps, _validate
from avs.training.state import TrainingState, Worker


def taken(state: TrainingState, first_step: int = 0) -> list[list[Batch]]:
    """The micro-batches of each step of the first epoch."""
    return [batches for batches, _ in _steps(state, 1, first_step=first_step)]


def ids(steps: list[list[Batch]]) -> list[list[str]]:
    return [[clip_id for batch in batches for clip_id in batch.clip_ids] for batches in steps]


def test_ranks_see_the_same_clips_in_each_step_when_one_is_slow(
    prepared: Path, tmp_path: Path
) -> None:
    config = train_config(prepared, tmp_path)
    calm = [taken(TrainingState(config, Worker(rank=r, world_size=2))) for r in (0, 1)]
    first_is_done = threading.Event()

    def late(
        reader: ClipReader, batches: Iterable[Sequence[int]], *, ahead: int = 1
    ) -> Generator[Batch]:
        assert first_is_done.wait(30)
        yield from prefetch(reader, batches, ahead=ahead)

    slow = TrainingState(config, Worker(rank=1, world_size=2, stream=late))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(taken, slow)
        found = [taken(TrainingState(config, Worker(rank=0, world_size=2)))]
        first_is_done.set()
        found.append(waiting.result())
    assert [ids(steps) for steps in found] == [ids(steps) for steps in calm]
    assert len({clip_id for steps in found for step in ids(steps) for clip_id in step}) == 8


def test_fewer_workers_take_the_same_clips_in_each_step_with_the_same_pictures(
    prepared: Path, tmp_path: Path
) -> None:
    config = train_config(prepared, tmp_path, batch_size=1, flip=True)
    full = [TrainingState(config, Worker(rank=r, world_size=4)) for r in range(4)]
    half = [TrainingState(config, Worker(rank=r, world_size=2, num_lanes=4)) for r in (0, 1)]
    assert {state.num_steps for state in (*full, *half)} == {2}
    wanted, found = ([taken(state) for state in states] for states in (full, half))
    for step in range(2):
        pictures = {batch.clip_ids[0]: batch.frames for own in wanted for batch in own[step]}
        assert len(pictures) == 4
        assert [len(own[step]) for own in found] == [2, 2]
        for batch in (batch for own in found for batch in own[step]):
            assert torch.equal(batch.frames, pictures.pop(batch.clip_ids[0]))


def test_an_epoch_goes_on_in_its_middle_and_reads_nothing_of_the_steps_before(
    prepared: Path, tmp_path: Path
) -> None:
    config = train_config(prepared, tmp_path, batch_size=1, accumulate_steps=2)
    state = TrainingState(config, Worker())
    whole = taken(state)
    read: list[int] = []

    def counted(
        reader: ClipReader, batches: Iterable[Sequence[int]], *, ahead: int = 1
    ) -> Generator[Batch]:
        wanted = [list(rows) for rows in batches]
        read.extend(row for rows in wanted for row in rows)
        yield from prefetch(reader, wanted, ahead=ahead)

    rest = taken(TrainingState(config, Worker(stream=counted)), first_step=3)
    assert len(whole) == 4
    assert ids(rest) == ids(whole)[3:]
    assert len(read) == 2
    for mine, theirs in zip(rest[0], whole[3], strict=True):
        assert torch.equal(mine.frames, theirs.frames)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_validation_scores_each_clip_once_whatever_the_number_of_ranks(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    """Three clips on 1, 2 and 4 ranks, in batches of two: the sums over ranks are of three."""
    scored: list[str] = []

    def note(_: object, batches: Iterable[Batch], **__: object) -> tuple[None, None]:
        scored.extend(clip_id for batch in batches for clip_id in batch.clip_ids)
        return None, None

    monkeypatch.setattr("avs.training.loop.validate", note)
    for rank in range(world_size):
        _validate(
            TrainingState(
                train_config(prepared, tmp_path), Worker(rank=rank, world_size=world_size)
            )
        )
    assert scored == ClipReader(str(prepared), split="val").clip_ids()


def test_as_many_batches_are_read_ahead_as_a_step_takes(prepared: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def note(
        reader: ClipReader, batches: Iterable[Sequence[int]], *, ahead: int = 1
    ) -> Generator[Batch]:
        asked.append(ahead)
        yield from prefetch(reader, batches, ahead=ahead)

    config = train_config(prepared, tmp_path, batch_size=1, accumulate_steps=2)
    worker = Worker(stream=note)
    taken(TrainingState(config, worker))
    taken(TrainingState(config, replace(worker, num_lanes=2)))
    assert asked == [2, 4]
