"""Figures of a sweep as PNG bytes: parallel coordinates, J against latency, J over epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from avs.report.figures import plain_text, png_bytes
from avs.tuning.records import Status, TrialRecord
from avs.tuning.space import Dimension

__all__ = ["learning_curves", "parallel_coordinates", "pareto_picture"]

_COLOURS = "viridis"
_ABSENT = -0.12  # below the axis: not searched beside the others, or not as in the space


def parallel_coordinates(records: Sequence[TrialRecord], dimensions: Sequence[Dimension]) -> bytes:
    """A line a trial over an axis a dimension, J as the last axis and as the colour.

    The dashed line below the axes: the dimension was not searched in that trial.
    """
    scored = [record for record in records if record.val_j is not None]
    scores = np.array([record.val_j for record in scored], float)
    colour = _colours(scores)
    figure = Figure(figsize=(max(6.0, 1.5 * (len(dimensions) + 1)), 4.2), layout="constrained")
    axes = figure.subplots()
    for record, score in sorted(zip(scored, scores, strict=True), key=lambda pair: pair[1]):
        places = [_place(dimension, record.values) for dimension in dimensions]
        line = [*places, float(colour.norm(score))]
        axes.plot(range(len(line)), line, color=colour.to_rgba(score), alpha=0.85, marker=".")
    for number, dimension in enumerate(dimensions):
        _axis(axes, number, dimension)
    names = [plain_text(dimension.key.rpartition(".")[2]) for dimension in dimensions]
    axes.set_xticks(range(len(names) + 1), [*names, "J"], rotation=20, ha="right", fontsize=8)
    axes.axvline(len(names), color="#bbbbbb", lw=0.8, zorder=0)
    axes.axhline(_ABSENT, color="#bbbbbb", lw=0.8, ls="--", zorder=0)
    axes.set(yticks=[], ylim=(_ABSENT - 0.05, 1.08))
    axes.spines[:].set_visible(False)
    figure.colorbar(colour, ax=axes, label="validation J")
    return png_bytes(figure)


def pareto_picture(records: Sequence[TrialRecord], front: Sequence[TrialRecord]) -> bytes:
    """J against the latency of each measured trial, the front joined."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    timed = [r for r in records if r.latency_s is not None and r.val_j is not None]
    axes.scatter(*_points(timed), color="#9aa5b1", label="trials")
    axes.plot(*_points(front), color="#d1495b", marker="o", drawstyle="steps-post", label="front")
    for record, x, y in zip(front, *_points(front), strict=True):
        axes.annotate(record.name, (x, y), fontsize=8, xytext=(4, 4), textcoords="offset points")
    axes.set(xlabel="median forward of one clip, ms", ylabel="validation J")
    axes.legend(frameon=False)
    return png_bytes(figure)


def learning_curves(records: Sequence[TrialRecord]) -> bytes:
    """Validation J over the epochs of each trial; where one was stopped early, a cross."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    colour = _colours(np.array([r.val_j for r in records if r.val_j is not None], float))
    for record in records:
        if not record.history:
            continue
        epochs = [epoch["epoch"] for epoch in record.history]
        scores = [epoch["val_j"] for epoch in record.history]
        shade = colour.to_rgba(record.val_j)
        axes.plot(epochs, scores, color=shade, marker=".", lw=1)
        if record.status is Status.STOPPED:
            axes.plot(epochs[-1], scores[-1], color=shade, marker="x", ms=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="validation J")
    return png_bytes(figure)


def _colours(scores: np.ndarray) -> Any:
    """J to a colour and to its height."""
    low, high = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 1.0)
    high = high if high > low else low + 1e-6
    return ScalarMappable(norm=Normalize(low, high), cmap=colormaps[_COLOURS])


def _points(records: Sequence[TrialRecord]) -> tuple[list[float], list[float]]:
    return (
        [1000 * (record.latency_s or 0.0) for record in records],
        [record.val_j or 0.0 for record in records],
    )


def _place(dimension: Dimension, values: dict[str, Any]) -> float:
    if dimension.key not in values:
        return _ABSENT
    return dimension.place(values[dimension.key])


def _axis(axes: Axes, number: int, dimension: Dimension) -> None:
    """A vertical line with the choices, or both ends, at their places."""
    axes.axvline(number, color="#bbbbbb", lw=0.8, zorder=0)
    for value in dimension.values():
        text = f"{value:.3g}" if isinstance(value, float) else str(value)
        axes.annotate(
            plain_text(text),
            (number, dimension.place(value)),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=7,
            va="center",
        )
