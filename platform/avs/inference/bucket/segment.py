"""The second stage: windows of any videos together through the network, masks out.

Logits do not leave the process: they are a hundred times as large as run-lengths. On a GPU threads
make the masks of one batch while the next is computed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from avs.inference.bucket.job import BucketJob, Cut, Masks
from avs.inference.predictor import Predictor
from avs.inference.window import window_masks
from avs.models.visible_objects import VisibleObjects

__all__ = ["WindowsSegmenter"]

_MAX_WAITING = 4  # batches whose masks are still being made


class WindowsSegmenter:
    """Holds one Predictor; ``mask_threads``: 0 = masks are made by the calling thread."""

    def __init__(self, job: BucketJob, *, mask_threads: int = 0) -> None:
        self._job = job
        self._predictor = Predictor.from_checkpoint(job.checkpoint, device=job.device)
        self._threads = ThreadPoolExecutor(mask_threads) if mask_threads else None

    def __call__(self, cuts: Sequence[Cut]) -> Iterator[Masks]:
        """The masks of each part, in the order of ``cuts``.

        Windows of different parts share batches: a short clip alone would leave most of the fixed
        compute shape empty.
        """
        begun_s = time.perf_counter()
        places = [(cut, index) for cut in cuts for index in range(len(cut.windows))]
        size = self._predictor.windows_per_forward
        waiting: deque[Future[None]] = deque()
        for first in range(0, len(places), size):
            group = places[first : first + size]
            logits, visible = self._forward(group)
            if self._threads is None:
                self._add_masks(group, logits, visible)
                continue
            waiting.append(self._threads.submit(self._add_masks, group, logits, visible))
            if len(waiting) > _MAX_WAITING:
                waiting.popleft().result()
        for future in waiting:
            future.result()
        per_window_s = (time.perf_counter() - begun_s) / max(1, len(places))
        for cut in cuts:
            yield _masks(cut, segment_s=per_window_s * len(cut.windows))

    def _forward(
        self, group: Sequence[tuple[Cut, int]]
    ) -> tuple[torch.Tensor, VisibleObjects | None]:
        given = self._predictor.forward(
            np.stack([cut.frames[index] for cut, index in group]),
            np.stack([cut.sound[index] for cut, index in group]),
            np.stack([cut.frame_valid[index] for cut, index in group]),
            objects=self._job.objects,
        )
        return next(given)  # the group is one batch

    def _add_masks(
        self,
        group: Sequence[tuple[Cut, int]],
        logits: torch.Tensor,
        visible: VisibleObjects | None,
    ) -> None:
        names = self._predictor.category_names if self._job.objects else ()
        for slot, (cut, index) in enumerate(group):
            for made in window_masks(
                logits[slot],
                visible and visible.window(slot),
                cut.windows[index],
                size_px=cut.track.size_px,
                threshold=self._job.threshold,
                names=names,
            ):
                cut.track.add(made.time_s, made.mask, made.objects)


def _masks(cut: Cut, *, segment_s: float) -> Masks:
    return Masks(
        video=cut.video,
        part=cut.part,
        is_last=cut.is_last,
        track=cut.track,
        has_sound=cut.has_sound,
        seconds=cut.seconds | {"segment": segment_s},
    )
