"""Scoring one clip under several sounds, and adding clips up. No Ray.

Workers return what the official aggregation needs (per-frame values, not means), because the
AVSBench figures depend on how clips are grouped into test batches.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor

from avs.inference.conditions import Condition, sound_for
from avs.inference.object_scores import count_objects, outlines, shown_objects
from avs.inference.objects import VisibleObject
from avs.inference.predictor import Predictor
from avs.inference.visible import objects_at
from avs.media.frames import resize_frames
from avs.metrics import (
    BinaryMeter,
    ClassAreas,
    PooledMeter,
    Protocol,
    SemanticMeter,
    SemanticSums,
    class_areas,
    clip_metrics,
    semantic_sums,
)
from avs.training.feed import ClipReader

__all__ = [
    "ClipScorer",
    "as_numpy",
    "combine",
    "predicted_labels",
    "protocol_text",
    "shown_frame",
    "spread_out",
]


class ClipScorer:
    """Worker of the evaluation: scores one clip of a prepared split a call."""

    def __init__(
        self, checkpoint: str, prepared: str, split: str, device: str, objects: bool = False
    ) -> None:
        self._predictor = Predictor.from_checkpoint(checkpoint, device=device)
        self._objects = objects
        self._reader = ClipReader(prepared, split=split, input_kind=self._predictor.input_kind)

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        """``task``: index, donor, picture. Scores by condition, with a picture where asked for."""
        both = self._reader.read([task["index"], task["donor"]])
        frames = both.frames[0].permute(0, 2, 3, 1).numpy()
        masks, valid, real = both.masks[0], both.mask_valid[0], both.frame_valid[0].numpy()
        row: dict[str, Any] = {"index": task["index"], "clip_id": both.clip_ids[0], "scores": {}}
        drawn, found = {}, {}
        for condition in Condition:
            sound = sound_for(condition, both.sound[0].numpy(), both.sound[1].numpy())
            logits, seen = self._look(frames, sound, real, masks.shape[-2:])
            row["scores"][condition.value] = _scores(logits, masks, valid)
            drawn[condition.value] = predicted_labels(logits).numpy()
            found[condition] = seen
        if self._objects:
            row["objects"] = count_objects(found, real)
        if task["picture"]:
            shown = shown_frame(valid.numpy())
            images = {"frame": frames, "truth": masks.numpy(), **drawn}
            picture = {name: of_frames[shown] for name, of_frames in images.items()}
            if self._objects:
                picture |= outlines(found, shown, picture["truth"].shape)
                row |= {"shown_objects": shown_objects(found, shown), "shown_frame": shown}
            row["picture"] = {n: _text(torch.from_numpy(np.array(a))) for n, a in picture.items()}
        return row

    def _look(
        self,
        frames: np.ndarray,
        sound: np.ndarray,
        frame_valid: np.ndarray,
        size_px: tuple[int, ...],
    ) -> tuple[Tensor, list[list[VisibleObject]]]:
        """Logits [T, K, H, W] at the size of the prepared masks, and each frame's objects, empty
        where nobody asked."""
        side, size = self._predictor.clip.image_size_px, (size_px[0], size_px[1])
        small = frames if frames.shape[1] == side else resize_frames(frames, (side, side))
        given = (small[None], sound[None], frame_valid[None])
        ((batch, visible),) = self._predictor.forward(*given, objects=self._objects)
        logits, found = batch[0], []
        if visible is not None:
            names = self._predictor.category_names
            places = [(0, k) for k in range(len(frames))]
            found = [objects_at(visible, p, names=names, size_px=size) for p in places]
        if tuple(logits.shape[-2:]) == size:
            return logits, found
        return F.interpolate(logits, size, mode="bilinear", align_corners=False), found


def combine(
    rows: Sequence[dict[str, Any]],
    *,
    num_classes: int,
    batch_size: int,
    protocol: Protocol = Protocol.AVSBENCH,
) -> dict[str, Any]:
    """J and F by condition over all clips, in the order of the split.

    Returns ``{"true": {"j", "f", ...}, "silent": ..., "swapped": ...}``, values in 0..1, in
    ``protocol``; each holds the result of the other protocol under that one's name. Raises
    ValueError when no clip has ground truth.
    """
    ordered = sorted(rows, key=lambda row: int(row["index"]))
    results = {}
    for condition in Condition:
        scores = [s for row in ordered if (s := row["scores"][condition.value]) is not None]
        both = {
            Protocol.AVSBENCH: _official(scores, num_classes, batch_size),
            Protocol.POOLED: _pooled(scores, num_classes),
        }
        chosen = both.pop(protocol)
        results[condition.value] = chosen | {other.value: value for other, value in both.items()}
    return results


def spread_out(num_wanted: int, count: int) -> set[int]:
    """Positions of ``num_wanted`` clips, or of all, evenly over a split of ``count``."""
    num_shown = min(num_wanted, count)
    return {place * count // num_shown for place in range(num_shown)}


def protocol_text(metrics: dict[str, Any]) -> str:
    """How the figures were made, to be told beside them."""
    if metrics["protocol"] == Protocol.POOLED.value:
        return "pooled over the split"
    return f"AVSBench protocol, test batch of {metrics['batch_size']}"


def _pooled(scores: Sequence[dict[str, Any]], num_classes: int) -> dict[str, Any]:
    meter = PooledMeter(num_classes)
    for score in scores:
        if score["areas"] is not None:
            predicted, true, both = _array(score["areas"])
            meter.add_areas(ClassAreas(predicted=predicted, true=true, both=both))
    return meter.result()


def _official(
    scored: Sequence[dict[str, Any]], num_classes: int, batch_size: int
) -> dict[str, Any]:
    if num_classes == 1:
        meter = BinaryMeter(batch_size_clips=batch_size)
        for score in scored:
            meter.add(_array(score["iou"]), _array(score["curve"]), _array(score["nonempty"]))
        return meter.result()
    semantic = SemanticMeter(num_classes)
    for score in scored:
        sums = {key: _array(score[key]) for key in ("iou", "f", "count")}
        semantic.add_sums(SemanticSums(**sums, num_frames=score["num_frames"]))
    result = semantic.result()
    return {**result, "j": result["miou"], "f": result["fscore"], "num_clips": len(scored)}


def _scores(logits_tkhw: Tensor, masks: Tensor, valid: Tensor) -> dict[str, Any] | None:
    num_classes = logits_tkhw.shape[1]
    areas = class_areas(logits_tkhw, masks, valid, num_classes=num_classes)
    areas_text = None
    if areas is not None:
        areas_text = _text(torch.stack([areas.predicted, areas.true, areas.both]))
    if num_classes > 1:
        # The official semantic metric counts every frame, padded ones too.
        sums = semantic_sums(logits_tkhw, masks, num_classes=num_classes)
        arrays = {"iou": _text(sums.iou), "f": _text(sums.f), "count": _text(sums.count)}
        return {**arrays, "num_frames": sums.num_frames, "areas": areas_text}
    found = clip_metrics(logits_tkhw, masks, valid)
    if found is None:
        return None
    return {
        "iou": _text(found.iou),
        "curve": _text(found.curve),
        "nonempty": _text(found.nonempty),
        "j": float(found.iou.mean()),
        "areas": areas_text,
    }


def predicted_labels(logits_tkhw: Tensor) -> Tensor:
    """Class index uint8 [T, H, W] of logits [T, K, H, W]."""
    if logits_tkhw.shape[1] == 1:
        return (logits_tkhw[:, 0] > 0).to(torch.uint8)
    return logits_tkhw.argmax(1).to(torch.uint8)


def shown_frame(valid: np.ndarray) -> int:
    """The middle frame with ground truth, which pictures show; valid: bool [T]."""
    labelled = np.flatnonzero(valid)
    return int(labelled[len(labelled) // 2]) if len(labelled) else 0


def _text(tensor: Tensor) -> dict[str, Any]:
    """An array as JSON: rows between processes are JSON, and base64 keeps every bit."""
    array = tensor.detach().cpu().numpy()
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": data}


def _array(text: dict[str, Any]) -> Tensor:
    return torch.from_numpy(as_numpy(text))


def as_numpy(text: dict[str, Any]) -> np.ndarray:
    """The array that a worker sent."""
    data = np.frombuffer(base64.b64decode(text["data"]), np.dtype(text["dtype"]))
    return data.reshape(text["shape"]).copy()
