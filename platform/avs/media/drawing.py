"""Masks and outlines drawn over one picture: the same in overlays, contact sheets and reports."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from avs.media.masks import voc_palette

__all__ = ["blend_mask", "draw_outlines", "mask_palette"]

_ACCENT = (255, 90, 30)
_SILENT = (235, 235, 235)


def mask_palette(num_classes: int) -> NDArray[np.uint8]:
    """Colours [num_classes, 3] of an overlay: one bright colour for one object class, else VOC."""
    return (
        np.array([(0, 0, 0), _ACCENT], np.uint8) if num_classes <= 2 else voc_palette(num_classes)
    )


def blend_mask(
    frame: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    *,
    opacity: float = 0.5,
    palette: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Frame [H, W, 3] with each class of ``mask`` [H, W] tinted and outlined; 0 is left as it is.

    ``palette`` [C, 3] gives the colours, by default :func:`mask_palette` of the largest class.
    The outline is one pixel for every 300 of the shorter side and lies within the object.
    """
    if mask.shape != frame.shape[:2]:
        raise ValueError(f"mask {list(mask.shape)} does not fit frame {list(frame.shape)}")
    out = frame.copy()
    is_object = mask > 0
    if not is_object.any():
        return out
    colours = mask_palette(int(mask.max()) + 1) if palette is None else palette
    tint = colours[mask[is_object]].astype(np.float32)
    mixed = (1 - opacity) * frame[is_object].astype(np.float32) + opacity * tint
    out[is_object] = np.rint(mixed).astype(np.uint8)
    edge = _edges(mask)
    out[edge] = (colours[mask[edge]].astype(np.uint16) + 2 * 255) // 3
    return out


def draw_outlines(frame: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frame [H, W, 3] with what is visible and silent outlined: ``labels`` [H, W] 1, 2, ...

    Light, within the object and as wide as the outline of a mask; the inside is left as it is.
    """
    out = frame.copy()
    out[_edges(labels)] = _SILENT
    return out


def _edges(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Object pixels near another class: within one pixel for every 300 of the shorter side."""
    edge = np.zeros(mask.shape, np.bool_)
    for step in range(1, 2 + min(mask.shape) // 300):
        if step >= min(mask.shape):
            break
        below = mask[step:] != mask[:-step]
        beside = mask[:, step:] != mask[:, :-step]
        edge[step:] |= below
        edge[:-step] |= below
        edge[:, step:] |= beside
        edge[:, :-step] |= beside
    return edge & (mask > 0)
