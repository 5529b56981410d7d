"""Ray Tune's searcher and ASHA on top of a sweep's plan, so that both survive the driver.

Ray names a trial anew at each start. ASHA is therefore asked under the plan's own names, and told
the epochs of all trials that were there before: its rungs are then those of a sweep that was never
interrupted, but for the order in which trials reached them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from avs.tuning.config import TuneConfig
from avs.tuning.plan import SweepPlan
from avs.tuning.records import TrialRecord

__all__ = ["PlanSearcher", "make_scheduler"]


class PlanSearcher(Searcher):
    """Hands out the trials of a plan by name, after ``first``, which it gave already."""

    def __init__(self, plan: SweepPlan, first: TrialRecord) -> None:
        super().__init__()
        self._plan, self._first = plan, [first]

    def suggest(self, trial_id: str) -> Any:  # noqa: ARG002 (the signatures are Ray's)
        """The next trial's name, or that there is none."""
        record = self._first.pop() if self._first else self._plan.next()
        return Searcher.FINISHED if record is None else {"trial": record.name}

    def on_trial_complete(
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,
        error: bool = False,
    ) -> None:
        """Nothing: the plan is told by the callback, which also knows why."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the plan is in the trial folders."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, for the same reason."""


def make_scheduler(config: TuneConfig, plan: SweepPlan) -> TrialScheduler | None:
    """ASHA that knows the trials of ``plan``; None where trials are not stopped early."""
    if config.search.with_latency:
        return None
    scheduler = _PlanAsha(config, plan)
    scheduler.replay()
    return scheduler


_NO_CONTROLLER: Any = None  # ASHA does not look at it


@dataclass(frozen=True, slots=True)
class _Named:
    """What ASHA looks at in a trial."""

    trial_id: str


class _PlanAsha(ASHAScheduler):
    """ASHA under the plan's names; the plan is told whom it stopped."""

    def __init__(self, config: TuneConfig, plan: SweepPlan) -> None:
        super().__init__(
            time_attr="epoch",
            metric="val_j",
            mode="max",
            grace_period=min(config.search.grace_epochs, config.train.epochs),
            max_t=config.train.epochs,
            reduction_factor=config.search.reduction_factor,
        )
        self._plan = plan

    def replay(self) -> None:
        """Tell it what the trials of earlier starts reached, epoch by epoch as if side by side."""
        records = [record for record in self._plan.records if record.history]
        for record in records:
            super().on_trial_add(_NO_CONTROLLER, _as_trial(record.name))
        epochs = [(epoch["epoch"], record) for record in records for epoch in record.history]
        for number, record in sorted(epochs, key=lambda pair: (pair[0], pair[1].name)):
            result = record.history[number - 1]
            super().on_trial_result(_NO_CONTROLLER, _as_trial(record.name), result)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial begins, or goes on."""
        super().on_trial_add(tune_controller, _named(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether it goes on."""
        action: str = super().on_trial_result(tune_controller, _named(trial), result)
        if action == TrialScheduler.STOP:
            self._plan.stop(trial.config["trial"])
        return action

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """It has ended."""
        super().on_trial_complete(tune_controller, _named(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """It was taken away before it began."""
        super().on_trial_remove(tune_controller, _named(trial))


def _named(trial: Any) -> Any:
    return _as_trial(trial.config["trial"])


def _as_trial(name: str) -> Any:
    """A trial as far as ASHA looks at it."""
    return _Named(name)
