"""Figures as PNG bytes: training curves, bars of J and F, the contact sheet."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from avs.media.drawing import blend_mask, draw_outlines, mask_palette

# matplotlib takes a second to import, which a training needs after its last step only: it is
# imported where something is drawn.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "contact_sheet",
    "curves",
    "new_figure",
    "plain_text",
    "png_bytes",
    "short_name",
    "sound_bars",
    "tick_whole_numbers",
]

COLUMNS = (
    ("frame", "frame"),
    ("truth", "ground truth"),
    ("true", "true sound"),
    ("silent", "silent"),
    ("swapped", "another clip's sound"),
)
_SEEN = ("seen", "objects seen")


def curves(history: Sequence[dict[str, Any]]) -> bytes:
    """Loss, and validation J and F, over the epochs of a run."""
    figure = new_figure(9, 3)
    loss_axes, score_axes = figure.subplots(1, 2)
    epochs = [m["epoch"] for m in history]
    loss_axes.plot(epochs, [m["loss"] for m in history], color="#333333", marker=".")
    loss_axes.set(title="training loss", xlabel="epoch")
    tick_whole_numbers(loss_axes.xaxis)
    for key, name, colour in (("val_j", "J", "#d1495b"), ("val_f", "F", "#00798c")):
        if history[0][key] is not None:
            values = [m[key] for m in history]
            score_axes.plot(epochs, values, label=name, color=colour, marker=".")
            score_axes.legend(frameon=False)
    score_axes.set(title="validation", xlabel="epoch", ylim=(0, 1))
    tick_whole_numbers(score_axes.xaxis)
    return png_bytes(figure)


def sound_bars(conditions: dict[str, dict[str, Any]]) -> bytes:
    """J and F with the true, the silent and the swapped sound."""
    figure = new_figure(6, 2.6)
    axes = figure.subplots()
    names = list(conditions)
    for offset, key, label, colour in ((-0.2, "j", "J", "#d1495b"), (0.2, "f", "F", "#00798c")):
        values = [conditions[n][key] for n in names]
        bars = axes.bar(np.arange(len(names)) + offset, values, 0.38, label=label, color=colour)
        axes.bar_label(bars, fmt="%.2f")
    axes.set_xticks(range(len(names)), [f"{n} sound" for n in names])
    axes.set(ylabel="J, F (0 to 1)", ylim=(0, 1.1))
    axes.legend(frameon=False, loc="upper right")
    return png_bytes(figure)


def contact_sheet(
    pictures: Sequence[tuple[str, dict[str, np.ndarray]]],
    *,
    num_classes: int,
    names: Sequence[Sequence[str]] | None = None,
) -> bytes:
    """A row a clip: frame, ground truth, and the prediction under each sound.

    ``pictures``: clip id and arrays by column name, ``frame`` uint8 [H, W, 3], others [H, W];
    ``<column>_outlines``, labels of silent objects, are drawn where they are there. ``names``: for
    each clip those of its ``seen_outlines``, which make one more column.
    """
    columns = COLUMNS if names is None else (*COLUMNS, _SEEN)
    rows = len(pictures)
    figure = new_figure(2.0 * len(columns), 2.1 * rows + 0.3)
    grid = figure.subplots(rows, len(columns), squeeze=False)
    palette = mask_palette(num_classes)
    for axes, (_, title) in zip(grid[0], columns, strict=True):
        axes.set_title(title, fontsize=9)
    own_names = names or [()] * rows
    for axes_row, (clip_id, arrays), own in zip(grid, pictures, own_names, strict=True):
        for axes, (key, _) in zip(axes_row, columns, strict=True):
            axes.imshow(_drawn(arrays, key, palette))
            axes.set(xticks=[], yticks=[])
        axes_row[0].set_ylabel(short_name(clip_id), fontsize=7)
        if own:
            _write_names(axes_row[-1], arrays["seen_outlines"], own)
    return png_bytes(figure)


def _drawn(arrays: dict[str, np.ndarray], key: str, palette: np.ndarray) -> np.ndarray:
    image = arrays["frame"]
    if key in arrays and key != "frame":
        # Pixels that are ignored have no colour.
        known = np.where(arrays[key] < len(palette), arrays[key], 0)
        image = blend_mask(image, known, palette=palette)
    if f"{key}_outlines" in arrays:
        image = draw_outlines(image, arrays[f"{key}_outlines"])
    return image


def _write_names(axes: Axes, labels: np.ndarray, names: Sequence[str]) -> None:
    """Name k in the middle of what label k + 1 shows of its object, one below another's name."""
    from matplotlib.patheffects import withStroke

    height, width = labels.shape
    taken: list[tuple[float, float]] = []
    for label, name in enumerate(names, start=1):
        rows, columns = np.nonzero(labels == label)
        if not len(rows):
            continue
        y, x = float(rows.mean()), float(columns.mean())
        while any(abs(y - v) < 0.09 * height and abs(x - u) < 0.4 * width for v, u in taken):
            y += 0.03 * height
        taken.append((y, x))
        shown = axes.text(x, y, plain_text(name), color="white", fontsize=8)
        outline = [withStroke(linewidth=1.5, foreground="black")]
        shown.set(ha="center", va="center", clip_on=True, path_effects=outline)


def short_name(clip_id: str) -> str:
    """A clip's own name, for an axis: at most 24 characters."""
    name = clip_id.rpartition("/")[2]
    return plain_text(name if len(name) <= 24 else name[:21] + "...")


def plain_text(text: str) -> str:
    """A text for a figure: matplotlib would read a pair of dollar signs as mathematics."""
    return text.replace("$", r"\$")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, which lays itself out."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def tick_whole_numbers(axis: Axis) -> None:
    """For an axis that counts: ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def png_bytes(figure: Figure) -> bytes:
    """A finished figure as a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
