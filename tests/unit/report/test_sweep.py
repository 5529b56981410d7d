"""The report of a sweep: what mattered is found, every text is escaped, pictures are there."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from made_sweeps import record
from PIL import Image

from avs.report.importance import dimension_importance, explained_share
from avs.report.sweep import importance_rows, write_sweep_report
from avs.report.sweep_figures import parallel_coordinates
from avs.tuning.records import Status, TrialRecord
from avs.tuning.space import Dimension

EVIL = "<script>alert('$1')</script>"
SPACE = [
    Dimension(key="model.width", choice=[16, 32]),
    Dimension(key="train.rate", loguniform=[1e-4, 1e-2]),
    Dimension(key="model.kind", choice=[EVIL, "$a$"], when={"model.width": 32}),
]


def trials() -> list[TrialRecord]:
    """J depends on the width alone."""
    rng = np.random.default_rng(0)
    made = []
    for k in range(12):
        values = {"model.width": (16, 32)[k % 2], "train.rate": float(10 ** rng.uniform(-4, -2))}
        if values["model.width"] == 32:
            values["model.kind"] = EVIL
        scores = [0.2, 0.3 + 0.4 * (k % 2) + 0.02 * rng.random()]
        made.append(record(k, values, scores))
    made[3].status, made[4].status = Status.STOPPED, Status.FAILED
    made[4].error, made[4].num_failures = f"no {EVIL}", 2
    return [*made, record(12, {})]


def test_importance_is_the_share_of_the_spread_less_that_of_chance() -> None:
    groups = ["a"] * 4 + ["b"] * 4
    assert explained_share(groups, [0.0] * 4 + [1.0] * 4) == 1.0
    # between 2.0, within 2.0: 1 of 6 free degrees; (4 - 2 - 1 * 2 / 6) / 4
    share = explained_share(groups, [0.0, 1.0, 0.0, 1.0, 1.0, 2.0, 1.0, 2.0])
    assert share == pytest.approx(5 / 12)
    assert explained_share(groups, [0.0, 1.0] * 4) == 0.0
    assert explained_share(["a"] * 8, [0.0, 1.0] * 4) is None
    assert explained_share(["a", "a", "b", "b"], [0.0, 0.0, 1.0, 1.0]) is None  # too few
    rng = np.random.default_rng(1)
    noise = rng.random(30)
    rates = np.linspace(0, 1, 30)
    slope = dimension_importance(list(rates), list(rates + 0.1 * noise), is_range=True)
    assert slope is not None
    assert slope > 0.8
    chance = dimension_importance(list(noise), list(rng.random(30)), is_range=True)
    assert chance is not None
    assert chance < 0.2


def test_what_mattered_comes_first() -> None:
    rows = importance_rows(trials(), SPACE)
    assert rows[0][0] == "model.width"
    assert (rows[0][1] or 0) > 0.95
    assert rows[-1] == ("model.kind", None, 6)


def test_the_report_has_all_trials_and_no_text_of_its_own_making(tmp_path: Path) -> None:
    uri = tmp_path / "report.html"
    made = trials()
    command = f"python jobs/train.py out='{EVIL}'"
    write_sweep_report(str(uri), made, dimensions=SPACE, command=command, num_epochs=4)
    text = uri.read_text()
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 3  # values, error, command
    assert all(f"<td>{trial.name}</td>" in text for trial in made)
    for told in ("stopped", "failed", "24 epochs of 52", "too few trials"):
        assert told in text
    assert "J against latency" not in text
    pictures = re.findall(r"base64,([A-Za-z0-9+/=]+)", text)
    assert len(pictures) == 2
    for number, seconds in enumerate([0.03, 0.01, 0.02]):
        made[number].latency_s = seconds
    write_sweep_report(str(uri), made, dimensions=SPACE, command=None, num_epochs=4)
    text = uri.read_text()
    assert "J against latency" in text
    assert len(re.findall(r"base64,", text)) == 3


def test_a_sweep_without_an_epoch_has_a_report(tmp_path: Path) -> None:
    uri = tmp_path / "report.html"
    write_sweep_report(
        str(uri), [record(0, {"k": 1})], dimensions=SPACE, command=None, num_epochs=4
    )
    assert "<td>0000</td>" in uri.read_text()


def test_parallel_coordinates_draw_another_line_for_other_values() -> None:
    made = trials()[:4]
    one = _pixels(parallel_coordinates(made, SPACE))
    made[0].values = {**made[0].values, "train.rate": 1e-4}
    assert not np.array_equal(one, _pixels(parallel_coordinates(made, SPACE)))
    made[0].values = {}  # as configured, outside of the space
    assert _pixels(parallel_coordinates(made, SPACE)).std() > 0


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))
