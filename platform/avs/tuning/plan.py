"""The sweep without Ray: which trial comes next, when it is over, how each one ended.

First what an earlier start left, in its order, then new trials until the budget is spent. A trial
is written down before it starts, so a kill at any moment loses no decision.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from avs import storage
from avs.errors import ConfigError
from avs.patience import patiently
from avs.scale import ScaleConfig
from avs.tuning.config import TuneConfig
from avs.tuning.records import Status, TrialRecord, load_records, trial_folder, trial_name
from avs.tuning.sampling import propose

__all__ = ["SweepPlan", "max_concurrent"]


class SweepPlan:
    """The trials of a sweep in ``config.out``: those that are there and those to come.

    Args:
        check_lease: raises where the folder is no longer ours; asked before each write.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        config: TuneConfig,
        *,
        check_lease: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._search = config, config.search
        self._check_lease, self._clock = check_lease, clock
        self._space = config.full_space()
        self.records = load_records(
            config.out,
            num_epochs=config.train.epochs,
            with_latency=config.search.with_latency,
        )
        left = (Status.UNFINISHED, Status.FAILED)
        self._left = [record for record in self.records if record.status in left]
        self.num_resumed = len(self._left)
        self._start_s, self._before_s = clock(), self._read_seconds()

    @property
    def seconds_left(self) -> float | None:
        """Of ``search.max_seconds``, over all starts; None without that limit."""
        limit = self._search.max_seconds
        return None if limit is None else limit - self.seconds

    @property
    def seconds(self) -> float:
        """What all starts of the sweep have taken."""
        return self._before_s + self._clock() - self._start_s

    def next(self) -> TrialRecord | None:
        """The next trial to run, written down; None when there is none."""
        while not self.is_time_up:
            record = self._left.pop(0) if self._left else self._new()
            if record is None or self._begin(record):
                return record
        return None

    @property
    def is_time_up(self) -> bool:
        """Whether ``search.max_seconds`` are spent."""
        left = self.seconds_left
        return left is not None and left <= 0

    def find(self, name: str) -> TrialRecord:
        """The trial of that name."""
        return self.records[int(name)]

    def add_epoch(self, name: str, metrics: Mapping[str, Any]) -> TrialRecord:
        """A trial has reported an epoch."""
        record = self.find(name)
        record.add_epoch(dict(metrics))
        self.save_seconds()
        return record

    def stop(self, name: str) -> None:
        """Early stopping has ended a trial: it does not go on at the next start."""
        record = self.find(name)
        record.status = Status.STOPPED
        self._save(record)

    def end(self, name: str) -> TrialRecord:
        """A trial runs no more: it is finished where it has all its epochs."""
        record = self.find(name)
        read = partial(
            record.read_results,
            self._config.out,
            num_epochs=self._config.train.epochs,
            with_latency=self._search.with_latency,
        )
        patiently(read)
        self._save(record)
        self.save_seconds()
        return record

    def fail(self, name: str, error: str, *, final: bool) -> TrialRecord:
        """A trial has failed, for good or to be tried again."""
        record = self.find(name)
        record.num_failures += 1
        record.error = error
        record.status = Status.FAILED if final else Status.UNFINISHED
        self._save(record)
        return record

    def save_seconds(self) -> None:
        """Leave the time for the next start."""
        seconds = {"seconds": round(self.seconds, 1)}
        self._write(partial(storage.write_json, self._seconds_uri, seconds))

    def _new(self) -> TrialRecord | None:
        limit = self._search.num_trials
        if limit is not None and len(self.records) >= limit:
            return None
        values = propose(self._space, self._search, seed=self._config.seed, records=self.records)
        if values is None:
            return None
        record = TrialRecord(name=trial_name(len(self.records)), values=values)
        self.records.append(record)
        return record

    def _begin(self, record: TrialRecord) -> bool:
        """Write it down; False, and failed, where its values do not go together."""
        record.status = Status.UNFINISHED
        folder = trial_folder(self._config.out, record.name)
        try:
            self._config.with_values(record.values, out=folder)
        except ConfigError as error:
            record.status, record.error = Status.FAILED, str(error)
        self._save(record)
        return record.status is Status.UNFINISHED

    def _save(self, record: TrialRecord) -> None:
        self._write(partial(record.save, self._config.out))

    def _write(self, call: Callable[[], None]) -> None:
        """Storage that is away for a while ends no sweep."""

        def checked() -> None:
            self._check_lease()
            call()

        patiently(checked)

    def _read_seconds(self) -> float:
        if not self.records or not storage.exists(self._seconds_uri):
            return 0.0
        return float(storage.read_json(self._seconds_uri)["seconds"])

    @property
    def _seconds_uri(self) -> str:
        return storage.join(self._config.out, "seconds.json")


def max_concurrent(scale: ScaleConfig, there: Mapping[str, float], *, limit: int | None) -> int:
    """How many trials fit beside each other into a cluster of ``there``, at most ``limit``; of a
    cluster that grows, ``limit`` where there is one."""
    if scale.autoscaling and limit is not None:
        return limit
    each = {"CPU": scale.cpus_per_worker, "GPU": scale.gpus_per_worker}
    room = [int(there.get(name, 0) / share + 1e-9) for name, share in each.items() if share]
    fitting = max(1, min(room, default=1))
    return fitting if limit is None else min(fitting, limit)
