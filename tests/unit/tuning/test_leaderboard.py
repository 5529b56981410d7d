"""Who is ahead, and what is worth a line."""

from __future__ import annotations

from made_sweeps import record

from avs.tuning.leaderboard import best_of, end_line, epoch_line, pareto_front, short_values
from avs.tuning.records import Status


def test_the_best_epoch_of_a_trial_counts_and_of_equals_the_first() -> None:
    trials = [record(0, {}, [0.1, 0.5, 0.2]), record(1, {}, [0.5]), record(2, {})]
    best = best_of(trials)
    assert best is trials[0]
    assert best is not None
    assert best.row()["best_epoch"] == 2
    assert best.row()["val_f"] == 0.25
    assert best_of(trials[2:]) is None


def test_only_epochs_of_the_best_few_are_told() -> None:
    trials = [record(k, {"a.width": 16}, [0.1 * k]) for k in range(1, 6)]
    lines = [epoch_line(trial, trials, num_epochs=4) for trial in trials]
    assert lines[:2] == [None, None]
    assert lines[4] == "tune: #1 of 5: 0005 epoch 1/4 J 0.500 (best 0.500) width=16"
    assert [line and line[6:8] for line in lines[2:]] == ["#3", "#2", "#1"]


def test_each_end_is_told_with_its_reason() -> None:
    stopped = record(3, {}, [0.25])
    stopped.status = Status.STOPPED
    told = end_line(stopped, num_ended=4, num_trials=8)
    assert told == "tune: 0003 was stopped early after 1 epochs, J 0.250 (4 of 8 ended)"
    failed = record(4, {}, error="out of memory")
    failed.status = Status.FAILED
    assert end_line(failed, num_ended=5, num_trials=None) == (
        "tune: 0004 failed: out of memory (5 ended)"
    )


def test_the_front_has_what_nothing_else_beats_in_both() -> None:
    points = [(0.5, 0.03), (0.4, 0.01), (0.3, 0.02), (0.5, 0.05), (0.6, 0.09), (0.4, 0.01)]
    trials = [record(k, {}, [j], latency_s=s) for k, (j, s) in enumerate(points)]
    unmeasured = record(9, {}, [0.9])
    assert [t.name for t in pareto_front([*trials, unmeasured])] == ["0001", "0000", "0004"]
    assert pareto_front([unmeasured]) == []


def test_values_are_short() -> None:
    values = {"train.learning_rate": 0.00123456, "model.options.fusion_stages": [3, 4]}
    assert short_values(values) == "learning_rate=0.00123 fusion_stages=[3,4]"
    assert short_values({}) == "as configured"
