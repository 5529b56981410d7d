"""What the stages of the bucket job are told and hand on, and when a video is done.

A video's folder ends with commit.json: without it, or with another source, checkpoint or parameters
in it, the video is done again. All of this needs no torch and no Ray: processes that decode or
write start in a moment.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from avs import storage
from avs.config import dump
from avs.errors import AvsError, DataError, DecoderError, LeaseError
from avs.inference.outputs import OutputKind, folder_name
from avs.inference.track import MaskTrack
from avs.media.pieces import MediaWindow
from avs.schema import Source
from avs.storage_remote import StorageError
from avs.training.clip_spec import ClipSpec

if TYPE_CHECKING:
    from avs.inference.config import SegmentConfig  # brings torch

__all__ = [
    "COMMIT",
    "BucketJob",
    "Cut",
    "Masks",
    "Message",
    "Outcome",
    "Video",
    "committed",
    "job_key",
    "outcome_of",
]

COMMIT = "commit.json"
_RECORD_VERSION = 2  # of what a row holds: those of another one are done again


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketJob:
    """What every worker knows. ``key`` stands for checkpoint and parameters; ``owner`` holds the
    lease of ``out``; ``clip`` and ``input_kind`` are those of the network."""

    checkpoint: str
    key: str
    out: str
    owner: str
    outputs: tuple[OutputKind, ...]
    threshold: float
    masks_per_s: int | None
    objects: bool
    device: str
    clip: ClipSpec
    input_kind: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Video:
    """One of the listing; ``name``: its path below the input."""

    name: str
    source: Source


@dataclass(kw_only=True, slots=True)
class Cut:
    """Windows of a part of a video, as the network takes them: frames uint8 [W, T, S, S, 3], sound
    and frame_valid [W, T]. ``windows`` say where their masks belong, and have no frames.

    ``track`` is empty, but for what is known of the video by then.
    """

    video: Video
    part: int
    is_last: bool
    track: MaskTrack
    has_sound: bool
    windows: list[MediaWindow]
    frames: np.ndarray
    sound: np.ndarray
    frame_valid: np.ndarray
    seconds: dict[str, float]


@dataclass(kw_only=True, slots=True)
class Masks:
    """The masks of a part, in ``track``; ``seconds`` that each stage took."""

    video: Video
    part: int
    is_last: bool
    track: MaskTrack
    has_sound: bool
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The row of a video that is over."""

    row: dict[str, Any]


Message = Video | Cut | Masks | Outcome


def job_key(config: SegmentConfig, weights: str) -> str:
    """What outputs depend on beside the video; ``weights``: hash of the checkpoint."""
    outputs = sorted(kind.value for kind in config.outputs)
    rate, objects = config.mask_rate, config.objects
    parts = [_RECORD_VERSION, weights, config.threshold, outputs, rate, objects]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def committed(job: BucketJob, video: Video) -> dict[str, Any] | None:
    """The row of a video that is done and whole, else None."""
    folder = storage.join(job.out, folder_name(video.name))
    uri = storage.join(folder, COMMIT)
    if not storage.exists(uri):
        return None
    try:
        found = storage.read_json(uri)
        if found["key"] != job.key or found["source"] != dump(video.source):
            return None
        there = {info.path for info in storage.iter_files(folder)}
        return dict(found["row"]) if there.issuperset(found["files"]) else None
    except (DataError, KeyError, TypeError, ValueError):  # damaged: not done
        return None


def outcome_of(error: Exception, video: Video, *, stage: str) -> Outcome:
    """The row of a video that cannot be segmented.

    Raises ``error`` where it says nothing about the video (no decoder, a lost lease, a storage that
    is away) and StorageError for a full disk and the like: the job ends, and run again it goes on.
    """
    if isinstance(error, DecoderError | LeaseError | StorageError):
        raise error
    if isinstance(error, OSError):
        text = f"{video.name}: {error}. Mend that and run the job again: it goes on from here."
        raise StorageError(text) from error
    reason = str(error)
    if not isinstance(error, AvsError):
        reason = f"failed: {type(error).__name__}: {error}"
    row = {"video": video.name, "status": "rejected", "reason": reason, "stage": stage}
    return Outcome(row)
