"""Figures of a training run as PNG bytes: its curves over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from avs.report.figures import (
    new_figure,
    plain_text,
    png_bytes,
    short_name,
    tick_whole_numbers,
)

if TYPE_CHECKING:  # imported late, as in avs.report.figures
    from matplotlib.axes import Axes

__all__ = ["overlay_sheet", "run_curves"]

_TOTAL, _J, _F, _PLAIN = "#333333", "#d1495b", "#00798c", "#4c6a92"
_STALL = "#b07d2b"


def run_curves(history: Sequence[dict[str, Any]], *, best_epoch: int | None) -> bytes:
    """Loss with its parts, validation J and F, learning rate, clips/s and stall over the epochs.

    ``best_epoch`` (from 1) is marked where J was measured.
    """
    figure = new_figure(10, 6.2)
    grid = figure.subplots(2, 2)
    _loss(grid[0, 0], history)
    _scores(grid[0, 1], history, best_epoch)
    _line(grid[1, 0], history, "learning_rate", colour=_PLAIN)
    grid[1, 0].set(title="learning rate", ylabel="learning rate at the end of the epoch")
    grid[1, 0].ticklabel_format(axis="y", scilimits=(-3, 3))
    _speed(grid[1, 1], history)
    for axes in grid.flat:
        axes.set_xlabel("epoch")
        tick_whole_numbers(axes.xaxis)
        axes.set_xlim(0.5, max(len(history), 2) + 0.5)
        axes.grid(alpha=0.25)
    return png_bytes(figure)


def overlay_sheet(overlays: Sequence[tuple[str, np.ndarray]]) -> bytes:
    """A row a clip: id, and uint8 [H, 3 W, 3] of the frame, the truth and the prediction."""
    figure = new_figure(7.2, 2.3 * len(overlays) + 0.3)
    rows = figure.subplots(len(overlays), 1, squeeze=False)[:, 0]
    rows[0].set_title("frame, ground truth, prediction", fontsize=9)
    for axes, (clip_id, image) in zip(rows, overlays, strict=True):
        axes.imshow(image)
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(short_name(clip_id), fontsize=7)
    return png_bytes(figure)


def _loss(axes: Axes, history: Sequence[dict[str, Any]]) -> None:
    _line(axes, history, "loss", colour=_TOTAL, label="loss")
    names = list(history[-1].get("parts", {}))
    for name in names:
        found = [(m["epoch"], m["parts"][name]) for m in history if name in m.get("parts", {})]
        axes.plot(*zip(*found, strict=True), label=plain_text(name), marker=".", lw=1, alpha=0.8)
    title = "training loss and its parts (without their weights)" if names else "training loss"
    axes.set(title=title, ylabel="mean over the epoch")
    lowest, highest = axes.get_ylim()
    axes.set_ylim(min(0.0, lowest), highest + 0.15 * (highest - min(0.0, lowest)))
    if names:
        axes.legend(frameon=False, fontsize=8, loc="upper right", ncols=len(names) + 1)


def _scores(axes: Axes, history: Sequence[dict[str, Any]], best_epoch: int | None) -> None:
    axes.set(title="validation", ylabel="J, F (0 to 1)", ylim=(0, 1))
    if all(m["val_j"] is None for m in history):
        axes.text(0.5, 0.5, "no validation split", ha="center", transform=axes.transAxes)
        return
    _line(axes, history, "val_j", colour=_J, label="J")
    _line(axes, history, "val_f", colour=_F, label="F")
    if best_epoch is not None:
        axes.axvline(best_epoch, color="#999999", ls=":", label=f"best J: epoch {best_epoch}")
    axes.legend(frameon=False, fontsize=8)


def _speed(axes: Axes, history: Sequence[dict[str, Any]]) -> None:
    _line(axes, history, "clips_per_s", colour=_PLAIN)
    axes.set(title="speed", ylabel="clips/s, all workers")
    axes.yaxis.label.set_color(_PLAIN)
    axes.set_ylim(bottom=0)
    beside = axes.twinx()
    stalls = [(m["epoch"], 100 * m["stall"]) for m in history if "stall" in m]
    if stalls:
        beside.plot(*zip(*stalls, strict=True), color=_STALL, marker=".", ls="--")
    beside.set_ylabel("share of time waiting for clips, %")
    beside.yaxis.label.set_color(_STALL)
    beside.set_ylim(0, max([5.0, *(1.1 * share for _, share in stalls)]))


def _line(
    axes: Axes, history: Sequence[dict[str, Any]], key: str, *, colour: str, label: str = ""
) -> None:
    """Values of ``key`` where there are any."""
    found = [(m["epoch"], m[key]) for m in history if m.get(key) is not None]
    if found:
        axes.plot(*zip(*found, strict=True), color=colour, marker=".", label=label or None)
