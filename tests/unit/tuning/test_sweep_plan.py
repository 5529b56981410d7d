"""The sweep without Ray: what comes next after any kind of end, and what is never done twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_sweeps import WIDTH, tune_config, write_epochs

from avs import patience, storage
from avs.errors import ConfigError, LeaseError
from avs.scale import ScaleConfig
from avs.storage_remote import StorageError
from avs.tuning.claim import claim_data, claim_sweep
from avs.tuning.plan import SweepPlan, max_concurrent
from avs.tuning.records import Status


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def run_all(plan: SweepPlan, scores: list[float]) -> list[str]:
    """Run what the plan gives, each to its end; the names."""
    names = []
    while (trial := plan.next()) is not None:
        write_epochs(plan._config.out, trial.name, scores)
        plan.end(trial.name)
        names.append(trial.name)
    return names


def test_trials_are_written_down_before_they_start(tmp_path: Path) -> None:
    config = tune_config(tmp_path)
    first = SweepPlan(config).next()
    assert first is not None
    written = json.loads((tmp_path / "sweep/trials/0000/trial.json").read_text())
    assert written["values"] == first.values
    again = SweepPlan(config)
    assert (again.num_resumed, len(again.records)) == (1, 1)
    assert again.next() == first
    second = again.next()
    assert second is not None
    assert second.name == "0001"


def test_a_start_after_a_kill_does_what_is_left_and_nothing_twice(tmp_path: Path) -> None:
    config = tune_config(tmp_path, num_trials=5)
    plan = SweepPlan(config)
    begun = [plan.next() for _ in range(4)]
    write_epochs(config.out, "0000", [0.5, 0.6])  # whole, though nobody lived to note it
    write_epochs(config.out, "0001", [0.5])
    plan.stop("0001")
    write_epochs(config.out, "0002", [0.4])
    plan.fail("0003", "out of memory", final=True)

    again = SweepPlan(config)
    status = [record.status for record in again.records]
    assert status == [Status.FINISHED, Status.STOPPED, Status.UNFINISHED, Status.FAILED]
    assert again.records[2].history[0]["val_j"] == 0.4
    assert run_all(again, [0.5, 0.6]) == ["0002", "0003", "0004"]
    assert [r.values for r in again.records[:4]] == [r.values for r in begun if r]
    assert again.records[3].num_failures == 1
    assert {record.status for record in again.records} == {Status.FINISHED, Status.STOPPED}
    assert SweepPlan(config).next() is None


def test_a_larger_budget_goes_on_from_the_same_trials(tmp_path: Path) -> None:
    assert run_all(SweepPlan(tune_config(tmp_path, num_trials=2)), [0.5, 0.6]) == ["0000", "0001"]
    larger = tune_config(tmp_path, num_trials=4)
    plan = SweepPlan(larger)
    assert run_all(plan, [0.5, 0.6]) == ["0002", "0003"]
    apart = SweepPlan(tune_config(tmp_path / "other", num_trials=4))
    run_all(apart, [0.5, 0.6])
    assert [r.values for r in plan.records] == [r.values for r in apart.records]


def test_the_seconds_of_all_starts_count(tmp_path: Path) -> None:
    config, clock = tune_config(tmp_path, num_trials=None, max_seconds=60), Clock()
    plan = SweepPlan(config, clock=clock)
    assert plan.next() is not None
    clock.now_s += 40
    plan.add_epoch("0000", {"epoch": 1, "val_j": 0.5, "val_f": 0.5, "seconds": 40.0})
    assert plan.seconds_left == pytest.approx(20)

    again = SweepPlan(config, clock=clock)
    assert again.seconds_left == pytest.approx(20)
    assert again.next() is not None
    clock.now_s += 21
    assert again.next() is None
    assert again.is_time_up
    write_epochs(config.out, "0000", [0.5])
    assert again.end("0000").status is Status.UNFINISHED  # a larger budget lets it go on


def test_values_that_do_not_go_together_are_told_and_cost_nothing(tmp_path: Path) -> None:
    weights = [0.0, 1.0]
    space = [{"key": f"loss.{part}_weight", "choice": weights} for part in ("bce", "dice")]
    base = {"loss": {"bce_weight": 1.0, "dice_weight": 1.0}}  # each alone may be 0
    plan = SweepPlan(tune_config(tmp_path, space, base=base, sampler="grid"))
    trial = plan.next()
    assert trial is not None
    assert trial.name == "0001"
    assert plan.records[0].status is Status.FAILED
    assert "both 0: nothing to train on" in plan.records[0].error


def test_nothing_is_written_once_the_folder_is_lost(tmp_path: Path) -> None:
    def lost() -> None:
        raise LeaseError("lost")

    config = tune_config(tmp_path)
    SweepPlan(config).next()
    before = (tmp_path / "sweep/trials/0000/trial.json").read_bytes()
    plan = SweepPlan(config, check_lease=lost)
    for write in (
        plan.next,
        lambda: plan.end("0000"),
        lambda: plan.stop("0000"),
        lambda: plan.fail("0000", "late", final=True),
    ):
        with pytest.raises(LeaseError):
            write()
    assert (tmp_path / "sweep/trials/0000/trial.json").read_bytes() == before


def test_failures_add_up_over_starts(tmp_path: Path) -> None:
    config = tune_config(tmp_path)
    plan = SweepPlan(config)
    plan.next()
    assert plan.fail("0000", "first", final=False).status is Status.UNFINISHED
    assert plan.fail("0000", "second", final=True).status is Status.FAILED
    kept = SweepPlan(config).records[0]
    assert (kept.num_failures, kept.error) == (2, "second")


def test_with_latency_a_trial_is_finished_once_it_is_measured(tmp_path: Path) -> None:
    config = tune_config(tmp_path, objectives=["j", "latency"])
    SweepPlan(config).next()
    write_epochs(config.out, "0000", [0.5, 0.6])
    assert SweepPlan(config).records[0].status is Status.UNFINISHED
    (tmp_path / "sweep/trials/0000/latency.json").write_text('{"median_s": 0.01}')
    found = SweepPlan(config).records[0]
    assert (found.status, found.latency_s) == (Status.FINISHED, 0.01)


@pytest.mark.parametrize(
    ("cpus", "gpus", "there", "limit", "expected"),
    [
        (1, 0, {"CPU": 4}, None, 4),
        (1.5, 0, {"CPU": 4}, None, 2),
        (4, 1, {"CPU": 64, "GPU": 3}, None, 3),
        (1, 0, {"CPU": 4}, 2, 2),
        (0.1, 0, {"CPU": 0.3}, None, 3),
        (0, 0, {"CPU": 4}, None, 1),
    ],
)
def test_as_many_trials_run_as_there_is_room_for(
    cpus: float, gpus: float, there: dict[str, float], limit: int | None, expected: int
) -> None:
    scale = ScaleConfig(num_workers=1, cpus_per_worker=cpus, gpus_per_worker=gpus)
    assert max_concurrent(scale, there, limit=limit) == expected


def test_a_cluster_that_grows_is_asked_for_as_many_trials_as_are_wanted() -> None:
    scale = ScaleConfig(num_workers=1, cpus_per_worker=1, gpus_per_worker=1, autoscaling=True)
    assert max_concurrent(scale, {"CPU": 4}, limit=3) == 3
    assert max_concurrent(scale, {"CPU": 4}, limit=None) == 1


def test_another_sweep_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    config = tune_config(tmp_path)
    claim_sweep(config)
    claim_sweep(tune_config(tmp_path, reduction_factor=3))  # nothing was begun yet
    claim_sweep(config)
    SweepPlan(config).next()
    free: dict[str, Any] = {"num_trials": 9, "max_seconds": 9.0, "max_failures": 0}
    claim_sweep(tune_config(tmp_path, **free, max_concurrent_trials=1))
    with pytest.raises(ConfigError, match=r"search\.reduction_factor is 3, there 2"):
        claim_sweep(tune_config(tmp_path, reduction_factor=3))
    with pytest.raises(ConfigError, match=r"another configuration: search\.space is"):
        claim_sweep(tune_config(tmp_path, [{"key": WIDTH, "choice": [16]}]))
    unused = tune_config(tmp_path)
    unused.search.spaces = {"avsc": unused.search.space}
    claim_sweep(unused)


def test_a_sweep_of_data_that_was_prepared_anew_is_refused(tmp_path: Path, prepared: Path) -> None:
    folder, out = tmp_path / "data", str(tmp_path / "sweep")
    shutil.copytree(prepared, folder)
    claim_data(out, [str(folder)], is_begun=False)
    claim_data(out, [str(folder)], is_begun=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=rf"{folder} was prepared anew since out={out} was begun"):
        claim_data(out, [str(folder)], is_begun=True)
    claim_data(out, [str(folder)], is_begun=False)  # nothing has a score yet
    claim_data(out, [str(folder)], is_begun=True)


def test_storage_that_is_away_for_a_moment_ends_no_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = SweepPlan(tune_config(tmp_path))
    write, failures = storage.write_json, [StorageError("away"), StorageError("away")]

    def flaky(uri: str, value: Any) -> None:
        if failures:
            raise failures.pop()
        write(uri, value)

    monkeypatch.setattr(storage, "write_json", flaky)
    monkeypatch.setattr(patience, "PAUSE_S", 0.0)
    record = plan.next()
    assert record is not None
    assert not failures
    assert [r.name for r in SweepPlan(tune_config(tmp_path)).records] == [record.name]


def test_a_sweep_goes_on_after_an_update_that_brought_a_key(tmp_path: Path) -> None:
    config = tune_config(tmp_path)
    claim_sweep(config)
    SweepPlan(config).next()
    begun = yaml.safe_load((tmp_path / "sweep/sweep.yaml").read_text())
    del begun["train"]["off_screen_ratio"]
    (tmp_path / "sweep/sweep.yaml").write_text(yaml.safe_dump(begun))
    claim_sweep(config)


@pytest.mark.parametrize("name", ["last.json", "weights.safetensors"])
def test_a_sweep_does_not_go_into_a_run_or_checkpoint(tmp_path: Path, name: str) -> None:
    config = tune_config(tmp_path)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / name).write_text("{}")
    with pytest.raises(ConfigError, match="not a sweep: give another out="):
        claim_sweep(config)
