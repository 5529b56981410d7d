"""The one place where a run tells how it goes: to its observers and to whoever follows its folder.

Every rank must make the same calls: the numbers of the steps are means over ranks, taken every
``logging.every_steps`` steps in one exchange of a few numbers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from avs.errors import ConfigError, LeaseError
from avs.progress import duration_text
from avs.telemetry import count_items, log_line, observe_seconds, show_training
from avs.training.observers import SeenEpoch, SeenStart, SeenSteps
from avs.training.over_ranks import mean_over_ranks
from avs.training.pace import Pace
from avs.training.run import EpochMetrics, Run
from avs.training.state import TrainingState

__all__ = ["Watch"]

_LOG = logging.getLogger(__name__)


class Watch:
    """Made after the run has begun or gone on, before its first step.

    Args:
        clips_per_step: on all ranks.
        step: of the run, behind it; None for the end of the last epoch of the history.
    """

    def __init__(
        self, state: TrainingState, run: Run, *, clips_per_step: int, step: int | None = None
    ) -> None:
        self._state, self._run, self._clips_per_step = state, run, clips_per_step
        val = state.val_reader
        self._every = state.config.logging.every_steps
        self._step = len(state.history) * state.num_steps if step is None else step
        self._pace = Pace(
            num_epochs=state.config.train.epochs,
            steps_per_epoch=state.num_steps,
            validation_steps=0.0 if val is None else len(val) / clips_per_step,
            pause_s=state.history[-1].get("validation_s") if state.history else None,
        )
        self._epoch = 0
        self._window: dict[str, float] = {}
        self._window_steps = 0
        self._failed: set[str] = set()
        self._tell("on_start", SeenStart(out=run.out, step=self._step, state=state))

    @property
    def step(self) -> int:
        """Steps of the run so far."""
        return self._step

    def add_step(
        self, losses: Mapping[str, float], *, epoch: int, step: int, lr: float, waited_s: float
    ) -> None:
        """A step of ``epoch`` (from 1) has ended; ``step`` counts from 0 in the epoch.

        losses: this rank's; waited_s: seconds that the step waited for its clips.
        """
        now_s = time.monotonic()
        if epoch != self._epoch:
            self._begin_epoch(epoch, step, now_s)
        self._measure(step, now_s, waited_s)
        self._pace.add_step(now_s, step=step)
        self._step += 1
        self._waited_s += waited_s if step > self._first_step else 0.0
        self._window_steps += 1
        for name, value in losses.items():
            self._window[name] = self._window.get(name, 0.0) + value
        is_last = step + 1 == self._state.num_steps
        self._now = (step, lr, now_s)
        if step == 0 or is_last or self._step % self._every == 0:
            self._add_point()
        if self._state.worker.rank == 0:
            self._show(step, now_s, is_last)

    def add_epoch(self, metrics: EpochMetrics) -> None:
        """An epoch has ended and is the last of the history; its checkpoint follows."""
        if self._state.worker.rank == 0:
            log_line(f"epoch {metrics['epoch']} done: loss {metrics['loss']:.4f}", stage="epoch")
            observe_seconds(metrics["checkpoint_s"], job="train", stage="checkpoint")
        seen = SeenEpoch(step=self._step, metrics=metrics, state=self._state)
        self._tell("on_epoch", seen)
        self.before_save()

    def before_save(self) -> None:
        """A checkpoint of what was trained so far is about to be written."""
        if self._window_steps:
            self._add_point()  # what goes on from it must not need these steps again
        self._tell("on_save", self._step)

    def end(self) -> None:
        """All epochs are trained and committed."""
        self._tell("on_end")

    def _begin_epoch(self, epoch: int, step: int, now_s: float) -> None:
        self._epoch, self._first_step, self._start_s = epoch, step, now_s
        self._waited_s, self._loss, self._loss_steps = 0.0, 0.0, 0

    def _add_point(self) -> None:
        step, lr, now_s = self._now
        names = sorted(self._window)
        sums = mean_over_ranks([self._window[name] for name in names], self._state.worker.device)
        count = self._window_steps
        means = {name: value / count for name, value in zip(names, sums, strict=True)}
        self._loss += means["loss"] * count
        self._loss_steps += count
        self._window, self._window_steps = {}, 0
        parts = {f"train/loss_{name}": v for name, v in means.items() if name != "loss"}
        scalars = {"train/loss": means["loss"], **parts, "train/learning_rate": lr}
        if self._state.gradient_norm is not None:
            scalars["train/gradient_norm"] = self._state.gradient_norm
        if step > self._first_step:
            rate, stall = self._rates(step, now_s)
            scalars |= {"train/clips_per_s": rate, "train/stall": stall}
        if self._state.worker.rank == 0:
            show_training(
                run=self._run.out,
                epoch=self._epoch,
                loss=means["loss"],
                clips_per_s=scalars.get("train/clips_per_s"),
                stall_share=scalars.get("train/stall"),
            )
        self._tell("on_steps", SeenSteps(step=self._step, epoch=self._epoch, scalars=scalars))

    def _measure(self, step: int, now_s: float, waited_s: float) -> None:
        """A step for Prometheus: each rank's seconds, and the clips of all ranks once."""
        if step > self._first_step:
            observe_seconds(now_s - self._now[2], job="train", stage="step")
            observe_seconds(waited_s, job="train", stage="wait")
        if self._state.worker.rank == 0:
            count_items(self._clips_per_step, job="train", status="ok")

    def _rates(self, step: int, now_s: float) -> tuple[float, float]:
        """Clips/s on all ranks and share of waiting, since the first step of this epoch."""
        passed_s = max(now_s - self._start_s, 1e-9)
        num_clips = (step - self._first_step) * self._clips_per_step
        return num_clips / passed_s, self._waited_s / passed_s

    def _show(self, step: int, now_s: float, is_last: bool) -> None:
        """Leave a line for the driver; the numbers beside it put it in order."""
        num_epochs, num_steps = self._state.config.train.epochs, self._state.num_steps
        parts = [f"epoch {self._epoch}/{num_epochs} step {step + 1}/{num_steps}"]
        parts.append(f"loss {self._loss / max(self._loss_steps, 1):.4f}")
        scores = [m["val_j"] for m in self._state.history if m["val_j"] is not None]
        if scores:
            parts.append(f"J {scores[-1]:.3f}")
        if step > self._first_step:
            rate, stall = self._rates(step, now_s)
            parts.append(f"{rate:.1f} clips/s, stall {100 * stall:.0f} %")
        left_s = self._pace.left_s(epoch=self._epoch, step=step)
        if left_s is not None:
            parts.append(f"{duration_text(left_s)} left")
        self._run.report_progress(
            ", ".join(parts),
            every_s=0.0 if is_last else 2.0,
            epoch=self._epoch,
            share=(self._epoch - 1 + (step + 1) / num_steps) / num_epochs,
        )

    def _tell(self, method: str, *seen: Any) -> None:
        for observer in self._state.worker.observers:
            call: Callable[..., None] = getattr(observer, method)
            try:
                if method == "on_epoch":  # they write, and the folder may be another run's
                    self._state.worker.check_lease()
                call(*seen)
            except (ConfigError, LeaseError):
                raise
            except Exception as error:  # whatever it is, it is not worth a training
                told = f"{type(observer).__name__}.{method}: {error}; the training goes on"
                _LOG.warning(told, exc_info=True)
                if told not in self._failed:
                    self._failed.add(told)
                    self._run.report_progress(f"warning: {told}", every_s=0.0)
