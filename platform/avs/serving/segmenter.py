"""Windows to logits, without Ray: what a segmenter replica does in its thread.

A new checkpoint is loaded beside the old one, and the old one answers the requests that began with
it until they must be over: a video is never half of one and half of the other.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from avs import storage
from avs.errors import CheckpointError
from avs.inference.predictor import Predictor, checkpoint_hash
from avs.inference.visible import finds_objects
from avs.models.visible_objects import VisibleObjects
from avs.serving.messages import ModelInfo
from avs.serving.spec import ModelSpec, UnknownCheckpoint, WindowAnswer, WindowJob

__all__ = ["WindowSegmenter", "describe"]

_CARD = "model_card.md"
_MAX_RETIRED = 2


class WindowSegmenter:
    """One model under a name; not for several threads at once, but for :meth:`load`.

    ``keep_s``: how long a replaced checkpoint still answers.
    """

    def __init__(self, name: str, *, share: float, device: str, keep_s: float) -> None:
        self._name, self._share, self._device, self._keep_s = name, share, device, keep_s
        self._predictors: dict[str, Predictor] = {}
        self._retired_at_s: dict[str, float] = {}
        self._newest: ModelSpec | None = None
        self._changing = threading.Lock()  # load runs beside forward

    @property
    def spec(self) -> ModelSpec:
        """Of the newest checkpoint."""
        assert self._newest is not None, "load comes first"
        return self._newest

    def load(self, uri: str, *, digest: str | None = None) -> None:
        """Load and warm up a checkpoint; from then on it is the newest.

        ``digest``: the hash that it was accepted with, None for whatever lies there.

        Raises:
            CheckpointError: it cannot be used; nothing has changed.
        """
        predictor = Predictor.from_checkpoint(uri, device=self._device)
        predictor.warm_up()
        spec = describe(predictor, name=self._name, share=self._share)
        if digest not in (None, spec.info.checkpoint):
            raise CheckpointError(f"{uri} was replaced since it was accepted")
        with self._changing:
            if self._newest is not None:
                self._retired_at_s[self._newest.info.checkpoint] = time.monotonic()
            self._retired_at_s.pop(spec.info.checkpoint, None)
            self._predictors[spec.info.checkpoint] = predictor
            self._newest = spec
            for oldest in list(self._retired_at_s)[:-_MAX_RETIRED]:  # each takes its memory
                del self._retired_at_s[oldest], self._predictors[oldest]

    def forward(self, jobs: Sequence[WindowJob]) -> list[WindowAnswer | UnknownCheckpoint]:
        """Logits of windows of any requests, in the fixed compute shape, in the order of jobs."""
        self._drop_retired()
        answers: list[WindowAnswer | UnknownCheckpoint] = []
        answers += [UnknownCheckpoint(self.spec.info.checkpoint)] * len(jobs)
        groups: dict[tuple[str, bool], list[int]] = {}
        for place, job in enumerate(jobs):
            groups.setdefault((job.checkpoint, job.objects), []).append(place)
        for (checkpoint, objects), places in groups.items():
            predictor = self._predictors.get(checkpoint)
            if predictor is not None:
                given = [jobs[place] for place in places]
                for place, answer in zip(
                    places, self._answers(predictor, given, objects=objects), strict=True
                ):
                    answers[place] = answer
        return answers

    def _answers(
        self, predictor: Predictor, jobs: Sequence[WindowJob], *, objects: bool
    ) -> list[WindowAnswer]:
        found = []
        for logits, visible in predictor.forward(
            np.stack([job.frames for job in jobs]),
            np.stack([job.sound for job in jobs]),
            np.stack([job.frame_valid for job in jobs]),
            objects=objects,
        ):
            for slot in range(len(logits)):
                found.append(
                    WindowAnswer(
                        logits=_array(logits[slot]),
                        visible=None if visible is None else _visible_arrays(visible, slot),
                        newest=self.spec.info.checkpoint,
                    )
                )
        return found

    def _drop_retired(self) -> None:
        now_s = time.monotonic()
        with self._changing:
            for checkpoint, at_s in list(self._retired_at_s.items()):
                if now_s - at_s > self._keep_s:
                    del self._retired_at_s[checkpoint], self._predictors[checkpoint]


def describe(predictor: Predictor, *, name: str, share: float) -> ModelSpec:
    """A loaded checkpoint as clients and decoders see it."""
    checkpoint = predictor.checkpoint
    card_uri = storage.join(checkpoint.uri, _CARD)
    card = storage.read_bytes(card_uri).decode() if storage.exists(card_uri) else ""
    info = ModelInfo(
        name=name,
        is_default=name == "default",
        share=share,
        checkpoint=checkpoint_hash(checkpoint.uri),
        network=checkpoint.model.name,
        num_frames=checkpoint.clip.num_frames,
        image_size_px=checkpoint.clip.image_size_px,
        class_names=tuple(checkpoint.clip.class_names),
        finds_objects=finds_objects(checkpoint),
        metrics=_finite(checkpoint.metrics),
        card=card,
    )
    return ModelSpec(
        info=info,
        clip=checkpoint.clip,
        input_kind=predictor.input_kind,
        category_names=predictor.category_names if info.finds_objects else (),
        windows_per_forward=predictor.windows_per_forward,
    )


def _finite(value: Any) -> Any:
    """Without nan and infinities, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _visible_arrays(visible: VisibleObjects, slot: int) -> tuple[np.ndarray, ...]:
    parts = (visible.score, visible.sounding, visible.masks)
    return tuple(_array(part[slot]) for part in parts)


def _array(tensor: torch.Tensor) -> np.ndarray:
    """A copy: a slice of a batch would bring the whole batch along."""
    return np.array(tensor.float().cpu().numpy())
