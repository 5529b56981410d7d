"""The bare loop trains what the platform trains, so that their times can be compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from ranks import on_ranks
from small_configs import train_config

from avs.benchmark.bare_train import bare_train
from avs.training.loop import train
from avs.training.state import Worker

NUM_CLIPS = 8  # of the fixture


def _metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("loader_processes", [0, 1])
def test_it_computes_the_steps_of_the_platform(
    prepared: Path, tmp_path: Path, loader_processes: int
) -> None:
    # One step an epoch, on all clips: then the order of the clips does not matter.
    config = train_config(prepared, tmp_path / "run", epochs=3, batch_size=NUM_CLIPS, flip=False)
    losses = [metrics["loss"] for metrics in train(config, Worker())]
    bare_train(config, str(prepared), tmp_path / "bare", loader_processes=loader_processes)
    assert [m["loss"] for m in _metrics(tmp_path / "bare")] == pytest.approx(losses, abs=1e-5)
    assert len({round(loss, 4) for loss in losses}) == 3  # else equal losses would say nothing


def test_ranks_share_the_clips_and_one_tells_their_rate(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "bare"
    config = train_config(prepared, tmp_path / "run", epochs=2, batch_size=2)

    def work(_: Worker) -> None:
        bare_train(config, str(prepared), out, loader_processes=0)

    assert on_ranks(2, tmp_path / "ranks", work) == [0, 0]
    metrics = _metrics(out)
    assert [m["epoch"] for m in metrics] == [1, 2]
    for line in metrics:
        assert line["clips_per_s"] * line["steps_s"] == pytest.approx(NUM_CLIPS)
        assert 0.0 < line["stall"] < 1.0


def test_clips_are_augmented_as_asked(prepared: Path, tmp_path: Path) -> None:
    config = train_config(prepared, tmp_path / "run", epochs=1, batch_size=NUM_CLIPS)
    losses = set()
    for flip in (False, True):
        out = tmp_path / str(flip)
        own = replace(config, train=replace(config.train, flip=flip))
        bare_train(own, str(prepared), out, loader_processes=0)
        losses.add(round(_metrics(out)[0]["loss"], 5))
    assert len(losses) == 2
