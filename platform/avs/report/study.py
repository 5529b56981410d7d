"""The tables of a study: means over seeds with their spread, intervals over groups of clips.

"+-" is the standard deviation over seeds: what training again changes. The interval in brackets
also draws the groups again: what other pictures would change beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from avs.inference.conditions import Condition
from avs.metrics.bootstrap import Interval, grouped_interval

__all__ = ["Figure", "StudyTable", "study_markdown", "study_tables"]

GAP = "gap"  # true sound minus another clip's
_SCORES = tuple((measure, c.value) for measure in ("j", "f") for c in Condition)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """mean and spread: over seeds, no spread of a single one. interval: over seeds and groups,
    None where clips have no figure."""

    mean: float
    spread: float | None
    interval: Interval | None = None


@dataclass(kw_only=True, slots=True)
class StudyTable:
    """Of one test set, by variant: figures by name ("j_true", ..., "j_gap"), differences to the
    baseline ("j_true", "j_gap"), minutes of training. num_groups: None where clips have no figure
    of their own, as with classes."""

    num_clips: int
    num_groups: int | None
    figures: dict[str, dict[str, Figure]]
    differences: dict[str, dict[str, Interval]]
    minutes: dict[str, float]


def study_tables(
    scores: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    groups_of: Callable[[list[str]], list[str]],
    baseline: str | None,
) -> StudyTable:
    """Add up one test set; ``scores`` are those of each variant, one per seed, all of one set."""
    first = next(iter(scores.values()))[0]
    clip_ids = [clip["clip_id"] for clip in first["clips"]]
    groups = groups_of(clip_ids)
    several = len(set(groups)) > 1
    clips = {variant: _clip_values(seeds) for variant, seeds in scores.items()} if several else {}
    return StudyTable(
        num_clips=first["num_clips"],
        num_groups=len(set(groups)) or None,
        figures={
            variant: {
                name: Figure(
                    mean=float(np.mean(values)),
                    spread=float(np.std(values, ddof=1)) if len(values) > 1 else None,
                    interval=grouped_interval(clips[variant][name], groups) if several else None,
                )
                for name, values in _seed_values(seeds).items()
            }
            for variant, seeds in scores.items()
        },
        differences={
            variant: {
                name: grouped_interval(clips[variant][name] - clips[baseline][name], groups)
                for name in ("j_true", f"j_{GAP}")
            }
            for variant in clips
            if baseline is not None and variant != baseline
        },
        minutes={
            variant: float(np.mean([seed["train_seconds"] for seed in seeds])) / 60
            for variant, seeds in scores.items()
        },
    )


def study_markdown(
    tables: Mapping[str, StudyTable], *, num_seeds: int, baseline: str | None, about: str
) -> str:
    """The tables as Markdown, with what the figures mean. about: a line on the training."""
    parts = [
        f"{about}\n",
        f"{_over(num_seeds)}; in brackets the 95 % bootstrap "
        "interval over seeds and over groups of clips that share a picture or video. AVSBench "
        "protocol, test batch of one clip; the checkpoint with the best validation J.\n",
    ]
    for test, table in tables.items():
        groups = f" of {table.num_groups} groups" if table.num_groups else ", scored as a whole"
        parts += [f"## {test}: {table.num_clips} clips{groups}\n"]
        parts += [_figures(table)]
        if table.differences:
            parts += [_differences(table, baseline)]
    return "\n".join(parts)


def _over(num_seeds: int) -> str:
    if num_seeds == 1:
        return "One seed"
    return f"Mean of {num_seeds} seeds, +- their standard deviation"


def _figures(table: StudyTable) -> str:
    names = (
        *(f"{m}_{c}" for m, c in _SCORES[:3]),
        f"j_{GAP}",
        *(f"{m}_{c}" for m, c in _SCORES[3:]),
    )
    heads = (
        "J true",
        "J silent",
        "J swapped",
        "J true - swapped",
        "F true",
        "F silent",
        "F swapped",
    )
    with_interval = ("j_true", f"j_{GAP}")
    lines = [f"| | {' | '.join(heads)} | minutes |", "|---" * (len(heads) + 2) + "|"]
    for variant, figures in table.figures.items():
        cells = [_shown(figures[name], interval=name in with_interval) for name in names]
        lines.append(f"| {variant} | {' | '.join(cells)} | {table.minutes[variant]:.1f} |")
    return "\n".join([*lines, ""])


def _shown(figure: Figure, *, interval: bool) -> str:
    text = f"{figure.mean:.3f}"
    if figure.spread is not None:
        text += f" +- {figure.spread:.3f}"
    if not interval or figure.interval is None:
        return text
    return f"{text} [{figure.interval.low:.3f}, {figure.interval.high:.3f}]"


def _differences(table: StudyTable, baseline: str | None) -> str:
    lines = [
        f"Difference to {baseline}, clip by clip; bold where the interval excludes 0:\n",
        "| | J true | J true - swapped |",
        "|---|---|---|",
    ]
    for variant, differences in table.differences.items():
        cells = [_difference(differences[name]) for name in ("j_true", f"j_{GAP}")]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _difference(interval: Interval) -> str:
    text = f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
    return f"**{text}**" if interval.excludes_zero else text


def _seed_values(seeds: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    values = {f"{m}_{c}": [float(seed["conditions"][c][m]) for seed in seeds] for m, c in _SCORES}
    for m in ("j", "f"):
        pairs = zip(values[f"{m}_true"], values[f"{m}_swapped"], strict=True)
        values[f"{m}_{GAP}"] = [true - swapped for true, swapped in pairs]
    return values


def _clip_values(seeds: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Figure by name -> [seeds, clips]."""
    values = {
        f"{m}_{c}": np.array([[clip[c][m] for clip in seed["clips"]] for seed in seeds])
        for m, c in _SCORES
    }
    for m in ("j", "f"):
        values[f"{m}_{GAP}"] = values[f"{m}_true"] - values[f"{m}_swapped"]
    return values
