"""What a training step knows about its clips, from a batch as it was read.

The source video is told from the clip id, by the same rules as the listing of leaks, because rows
do not keep it. Where a naming says nothing, every clip is a video of its own, except that windows
of one file share it. Videos become hashes: ranks compare them without having seen each other's
names.

Shapes: B clips, K category names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from avs.datasets.avss_metadata import source_video_id
from avs.models.types import Truth
from avs.training.batch import Batch, padding_flags

__all__ = ["batch_truth", "source_video", "step_seed"]

_HASH_BYTES = 8
# Data sets whose names hold the id of a video: how, or None where the subset says how.
_NAMED_BY_VIDEO = {"s4": "v1s", "ms3": "v1m", "avss": None}


def batch_truth(batch: Batch, *, category_names: Sequence[str], seed: int) -> Truth:
    """The truth of a batch, on its device.

    category_names: of the model, K of them; names of a clip that are not among them are left out.
    """
    device = batch.masks.device
    categories = None
    if category_names:
        named = [[name in own for name in category_names] for own in batch.categories]
        categories = torch.tensor(named, dtype=torch.bool, device=device)
    videos = [_number(source_video(clip_id)) for clip_id in batch.clip_ids]
    return Truth(
        masks=batch.masks,
        mask_valid=batch.mask_valid,
        frame_valid=padding_flags(batch),
        categories=categories,
        videos=torch.tensor(videos, dtype=torch.int64, device=device),
        seed=seed,
        off_screen=batch.off_screen,
    )


def step_seed(seed: int, *, epoch: int, step: int) -> int:
    """The seed of a step's random points: the same on every rank, another in every step."""
    return int(np.random.default_rng([seed, epoch, step]).integers(2**31))


def source_video(clip_id: str) -> str:
    """The video that a clip was cut from; ``clip_id`` is ``dataset/subset/name[@start_ms]``."""
    dataset, _, rest = clip_id.partition("/")
    subset, _, name = rest.partition("/")
    if dataset in _NAMED_BY_VIDEO:
        return source_video_id(name, _NAMED_BY_VIDEO[dataset] or subset)
    head, at, start_ms = clip_id.rpartition("@")
    return head if at and start_ms.isdigit() else clip_id


def _number(name: str) -> int:
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:_HASH_BYTES], "big", signed=True)
