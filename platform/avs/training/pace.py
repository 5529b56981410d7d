"""How fast a run goes and when it will have ended: steps, and the pauses between epochs.

A pause is what lies between the last step of an epoch and the first of the next one: validation,
the checkpoint, the reader's start. Until one was measured it is guessed from the time of a step.
"""

from __future__ import annotations

__all__ = ["Pace"]

_FORWARD_SHARE = 1 / 3  # of a step: the backward pass takes about twice as long


class Pace:
    """Told the time of each step, it knows the time that is left.

    Args:
        num_epochs, steps_per_epoch: of the whole run.
        validation_steps: forward passes of a validation, in steps' worth of clips.
        pause_s: of an earlier start of this run; None where there was none.
    """

    def __init__(
        self,
        *,
        num_epochs: int,
        steps_per_epoch: int,
        validation_steps: float,
        pause_s: float | None = None,
    ) -> None:
        self._num_epochs, self._steps_per_epoch = num_epochs, steps_per_epoch
        self._validation_steps, self._pause_s = validation_steps, pause_s
        self._last_s: float | None = None
        self._step_s, self._count = 0.0, 0

    def add_step(self, now_s: float, *, step: int) -> None:
        """A step has ended; ``step`` counts from 0 in its epoch.

        The first one of a start is not counted: it holds what happens once.
        """
        passed_s = None if self._last_s is None else now_s - self._last_s
        self._last_s = now_s
        if passed_s is None:
            return
        if step == 0 and self._count:
            self._pause_s = max(0.0, passed_s - self._step_s / self._count)
        elif step > 0:
            self._step_s += passed_s
            self._count += 1

    def left_s(self, *, epoch: int, step: int) -> float | None:
        """Seconds to the end of the run after ``step`` (from 0) of ``epoch`` (from 1).

        The last validation and checkpoint are counted; None before the second step.
        """
        if not self._count:
            return None
        each_s = self._step_s / self._count
        epochs = self._num_epochs - epoch
        steps = self._steps_per_epoch - step - 1 + epochs * self._steps_per_epoch
        pause_s = self._pause_s
        if pause_s is None:
            pause_s = self._validation_steps * each_s * _FORWARD_SHARE
        return steps * each_s + (epochs + 1) * pause_s
