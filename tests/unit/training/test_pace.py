"""The time that is left of a run: steps, and what lies between epochs."""

from __future__ import annotations

import pytest

from avs.training.pace import Pace


def _pace(*, pause_s: float | None = None) -> Pace:
    return Pace(num_epochs=3, steps_per_epoch=4, validation_steps=6.0, pause_s=pause_s)


def _run(pace: Pace, *, epochs: int, step_s: float = 2.0, pause_s: float = 10.0) -> None:
    now_s = 100.0
    for epoch in range(epochs):
        now_s += pause_s if epoch else 50.0  # the first step of a start takes long
        for step in range(4):
            now_s += step_s
            pace.add_step(now_s, step=step)


def test_nothing_is_promised_before_two_steps() -> None:
    pace = _pace()
    pace.add_step(1.0, step=0)
    assert pace.left_s(epoch=1, step=0) is None
    pace.add_step(3.0, step=1)
    assert pace.left_s(epoch=1, step=1) is not None


def test_all_epochs_and_the_pauses_between_them_are_counted() -> None:
    pace = _pace()
    _run(pace, epochs=2)
    # One epoch of four steps, the pause before it, and the last validation.
    assert pace.left_s(epoch=2, step=3) == pytest.approx(4 * 2.0 + 2 * 10.0)


def test_before_the_first_validation_a_third_of_a_step_is_expected_for_its_clips() -> None:
    pace = _pace()
    _run(pace, epochs=1)
    assert pace.left_s(epoch=1, step=3) == pytest.approx(8 * 2.0 + 3 * 6.0 * 2.0 / 3)


def test_an_earlier_start_knows_the_pause() -> None:
    pace = _pace(pause_s=7.0)
    _run(pace, epochs=1)
    assert pace.left_s(epoch=2, step=1) == pytest.approx(6 * 2.0 + 2 * 7.0)


def test_a_start_in_the_middle_of_an_epoch_counts_no_pause() -> None:
    pace = _pace(pause_s=7.0)
    for now_s, step in ((100.0, 2), (102.0, 3)):
        pace.add_step(now_s, step=step)
    assert pace.left_s(epoch=3, step=3) == pytest.approx(7.0)
