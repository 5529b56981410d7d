"""Figures as PNG bytes: training curves, bars of J and F, the contact sheet."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from avs.media.drawing import blend_mask, draw_outlines, mask_palette

__all__ = ["contact_sheet", "curves", "sound_bars"]

COLUMNS = (
    ("frame", "frame"),
    ("truth", "ground truth"),
    ("true", "true sound"),
    ("silent", "silent"),
    ("swapped", "another clip's sound"),
)


def curves(history: Sequence[dict[str, Any]]) -> bytes:
    """Loss, and validation J and F, over the epochs of a run."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    loss_axes, score_axes = figure.subplots(1, 2)
    epochs = [m["epoch"] for m in history]
    loss_axes.plot(epochs, [m["loss"] for m in history], color="#333333", marker=".")
    loss_axes.set(title="training loss", xlabel="epoch")
    loss_axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for key, name, colour in (("val_j", "J", "#d1495b"), ("val_f", "F", "#00798c")):
        if history[0][key] is not None:
            values = [m[key] for m in history]
            score_axes.plot(epochs, values, label=name, color=colour, marker=".")
            score_axes.legend(frameon=False)
    score_axes.set(title="validation", xlabel="epoch", ylim=(0, 1))
    score_axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _png(figure)


def sound_bars(conditions: dict[str, dict[str, Any]]) -> bytes:
    """J and F with the true, the silent and the swapped sound."""
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axes = figure.subplots()
    names = list(conditions)
    for offset, key, label, colour in ((-0.2, "j", "J", "#d1495b"), (0.2, "f", "F", "#00798c")):
        values = [conditions[n][key] for n in names]
        bars = axes.bar(np.arange(len(names)) + offset, values, 0.38, label=label, color=colour)
        axes.bar_label(bars, fmt="%.2f")
    axes.set_xticks(range(len(names)), [f"{n} sound" for n in names])
    axes.set_ylim(0, 1.1)
    axes.legend(frameon=False, loc="upper right")
    return _png(figure)


def contact_sheet(
    pictures: Sequence[tuple[str, dict[str, np.ndarray]]], *, num_classes: int
) -> bytes:
    """A row a clip: frame, ground truth, and the prediction under each sound.

    ``pictures``: clip id and arrays by column name, ``frame`` uint8 [H, W, 3], others [H, W];
    ``<column>_outlines``, labels of silent objects, are drawn where they are there.
    """
    rows = len(pictures)
    figure = Figure(figsize=(2.0 * len(COLUMNS), 2.1 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, len(COLUMNS), squeeze=False)
    palette = mask_palette(num_classes)
    for axes, (_, title) in zip(grid[0], COLUMNS, strict=True):
        axes.set_title(title, fontsize=9)
    for axes_row, (clip_id, arrays) in zip(grid, pictures, strict=True):
        for axes, (key, _) in zip(axes_row, COLUMNS, strict=True):
            image = arrays["frame"]
            if key != "frame":
                image = blend_mask(image, arrays[key], palette=palette)
            if f"{key}_outlines" in arrays:
                image = draw_outlines(image, arrays[f"{key}_outlines"])
            axes.imshow(image)
            axes.set(xticks=[], yticks=[])
        axes_row[0].set_ylabel(_short(clip_id), fontsize=7)
    return _png(figure)


def _short(clip_id: str) -> str:
    name = clip_id.rpartition("/")[2]
    # matplotlib would read a pair of dollar signs as mathematics
    return (name if len(name) <= 24 else name[:21] + "...").replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
