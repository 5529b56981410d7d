"""The sounds that a clip is scored with: its own, none, and another clip's.

A model that segments whatever is salient scores the same under all three; the drop from the true
sound is what shows that it listens.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import numpy as np

from avs.media.logmel import silence_log_mel
from avs.training.truth import source_video

__all__ = ["Condition", "choose_donors", "sound_for"]


class Condition(enum.Enum):
    """true: the clip's own sound; silent: digital silence; swapped: the sound of another clip."""

    TRUE = "true"
    SILENT = "silent"
    SWAPPED = "swapped"


def choose_donors(categories: Sequence[tuple[str, ...]], clip_ids: Sequence[str]) -> list[int]:
    """For each clip the index of the clip whose sound it gets under ``swapped``.

    The next clip (cyclic) whose categories share nothing with this clip's and are not empty; where
    there is none, as in data that names none, the next clip of another video, because clips of one
    video share sounds; else the next clip. A function of the order, so every model gets the same.
    """
    count = len(categories)
    videos = [source_video(clip_id) for clip_id in clip_ids]
    donors = []
    for index, own in enumerate(categories):
        following = [(index + step) % count for step in range(1, count)] or [index]
        other = (j for j in following if categories[j] and not set(categories[j]) & set(own))
        elsewhere = (j for j in following if videos[j] != videos[index])
        donors.append(next(other, next(elsewhere, following[0])))
    return donors


def sound_for(condition: Condition, own: np.ndarray, donor: np.ndarray) -> np.ndarray:
    """The sound that a clip is heard with, as its own: log-mel [T, 1, 96, 64] or waveform [n]."""
    if condition is Condition.TRUE:
        return own
    if condition is Condition.SWAPPED:
        return donor
    return np.zeros_like(own) if own.ndim == 1 else silence_log_mel(len(own))
