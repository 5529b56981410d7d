"""Tables of a study."""

from __future__ import annotations

from typing import Any

import pytest

from avs.report.study import study_markdown, study_tables


def _seed(offset: float, *, hears: bool = True) -> dict[str, Any]:
    """Scores of four clips; a model that hears loses 0.2 with another clip's sound."""
    clips = []
    for k in range(4):
        j = 0.4 + 0.1 * k + offset
        swapped = j - 0.2 if hears else j
        clips.append(
            {"clip_id": f"x/y/{k}"}
            | {c: {"j": v, "f": v} for c, v in (("true", j), ("silent", j), ("swapped", swapped))}
        )
    means = {
        c: {m: sum(clip[c][m] for clip in clips) / 4 for m in ("j", "f")}
        for c in ("true", "silent", "swapped")
    }
    return {"num_clips": 4, "conditions": means, "clips": clips, "train_seconds": 120.0}


def _tables(scores: dict[str, Any], baseline: str | None = "deaf") -> Any:
    return study_tables(scores, groups_of=lambda ids: [i[-1] for i in ids], baseline=baseline)


def test_means_and_spread_are_over_seeds_and_differences_are_paired() -> None:
    table = _tables({"deaf": [_seed(0.0, hears=False)] * 2, "hears": [_seed(0.0), _seed(0.1)]})
    figures = table.figures["hears"]
    assert figures["j_true"].mean == pytest.approx(0.6)
    assert figures["j_true"].spread == pytest.approx(0.1 / 2**0.5)
    assert figures["j_gap"].mean == pytest.approx(0.2)
    assert table.figures["deaf"]["j_gap"].mean == 0.0
    assert set(table.differences) == {"hears"}
    assert table.differences["hears"]["j_true"].mean == pytest.approx(0.05)
    assert table.differences["hears"]["j_gap"].excludes_zero
    assert table.minutes["hears"] == 2.0


def test_the_text_says_what_stands_out_and_from_how_many() -> None:
    table = _tables({"deaf": [_seed(0.0, hears=False)], "hears": [_seed(0.0)]})
    text = study_markdown({"held_back": table}, num_seeds=1, baseline="deaf", about="On 8 clips.")
    assert text.startswith("On 8 clips.")
    assert "held_back: 4 clips of 4 groups" in text
    assert "| hears | +0.000 [+0.000, +0.000] | **+0.200 [+0.200, +0.200]** |" in text
    head, _, deaf, _ = [line for line in text.splitlines() if line.startswith("|")][:4]
    assert deaf.startswith("| deaf | 0.550 [")
    assert deaf.count("|") == head.count("|")


def test_without_clips_there_are_means_and_no_intervals() -> None:
    semantic = {**_seed(0.0), "clips": []}
    table = _tables({"deaf": [semantic], "hears": [semantic]})
    assert table.figures["hears"]["j_true"].interval is None
    assert table.differences == {}
    told = study_markdown({"t": table}, num_seeds=1, baseline=None, about="").split("##")[1]
    assert told.startswith(" t: 4 clips, scored as a whole")
    assert "[" not in told
