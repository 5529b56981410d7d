"""Told that it ends soon, a training saves at once, and once a notice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_configs import train_config

from avs.training import notices
from avs.training.loop import train
from avs.training.notices import Notices, listen_to_sigterm, was_signalled
from avs.training.run import Run
from avs.training.state import Worker


@pytest.fixture
def listening() -> Iterator[None]:
    previous = signal.getsignal(signal.SIGTERM)
    listen_to_sigterm()
    yield
    signal.signal(signal.SIGTERM, previous)


def test_sigterm_is_a_notice_that_is_told_once(listening: None) -> None:
    assert not was_signalled()
    os.kill(os.getpid(), signal.SIGTERM)
    assert was_signalled()
    assert not was_signalled()


def test_a_notice_saves_the_step_before_the_next_one_begins(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter([False, True, False, False])
    commits: list[str] = []
    commit = Run.commit

    def note(self: Run, history: Any, *, uri: str, keep_best: int) -> None:
        commits.append(uri.rpartition("/")[2])
        commit(self, history, uri=uri, keep_best=keep_best)

    monkeypatch.setattr(Run, "commit", note)
    train(train_config(prepared, tmp_path, epochs=1), Worker(told=lambda: next(told)))
    assert commits == ["epoch-0001-step-000002", "epoch-0001"]


def test_the_cluster_is_asked_now_and_then_only(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    asked: list[float] = []

    def ask() -> bool:
        asked.append(clock[0])
        return len(asked) == 2

    own = Notices(Worker(ask_cluster=ask))
    answers = []
    for second in range(1, 13):
        clock[0] = float(second)
        answers.append(own.agreed())
    assert asked == [notices.ASK_EVERY_S, 2 * notices.ASK_EVERY_S]
    assert [place for place, told in enumerate(answers, 1) if told] == [10]
