"""The learning rate of every step of a run: a pure function of the configuration and the step.

A warm-up multiplies what the schedule says instead of coming before it, so that a run with one has
as many steps as one without, and its schedule the same length.
"""

from __future__ import annotations

import math

from avs.training.config import LoopConfig, Schedule

__all__ = ["learning_rate"]


def learning_rate(loop: LoopConfig, step: int, *, steps_per_epoch: int) -> float:
    """The rate of an optimiser step of the run, counted from 0 over all epochs."""
    rate = _scheduled(loop, step, steps_per_epoch=steps_per_epoch)
    if step >= loop.warmup_steps:
        return rate
    risen = step / loop.warmup_steps
    return rate * (loop.warmup_start_factor + risen * (1 - loop.warmup_start_factor))


def _scheduled(loop: LoopConfig, step: int, *, steps_per_epoch: int) -> float:
    if loop.schedule is Schedule.CONSTANT:
        return loop.learning_rate
    if loop.schedule is Schedule.LINEAR:
        assert loop.final_learning_rate is not None
        assert loop.schedule_epochs is not None
        done = min(step // steps_per_epoch / loop.schedule_epochs, 1.0)
        return loop.learning_rate + done * (loop.final_learning_rate - loop.learning_rate)
    done = step / (loop.epochs * steps_per_epoch)
    if loop.schedule is Schedule.POLY:
        return loop.learning_rate * float((1 - done) ** loop.poly_power)
    return loop.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
