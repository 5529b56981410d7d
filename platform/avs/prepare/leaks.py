"""Leaks between splits: clips of one source video, or of one content, in more than one split.

The published AVSBench splits leak (56 of the 219 source videos of v1m), so for them it is a
warning with numbers; a user's own split that leaks is refused, because its scores would be wrong
and the split can still be mended.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from avs.datasets import ClipSource
from avs.errors import DataError
from avs.prepare.records import ShardRecord
from avs.schema import Clip

__all__ = [
    "PUBLISHED",
    "Leak",
    "content_hash",
    "content_leaks",
    "report_leaks",
    "source_leaks",
]

# Splits that users did not make and cannot mend.
PUBLISHED = ("s4", "ms3", "avss", "vpo", "synthetic")

_NUM_NAMED = 3


@dataclass(frozen=True, slots=True)
class Leak:
    """One source or content, and its clips as (split, clip id): at least two splits."""

    what: str
    clips: tuple[tuple[str, str], ...]


def source_leaks(sources: Iterable[ClipSource]) -> list[Leak]:
    """Source videos with clips in several splits; clips that the listing rejects do not count.

    Where the naming of a data set does not tell the video, the media file stands for it.
    """
    return _shared(
        "video",
        ((s.video_id or s.source.uri, s.split, s.clip_id) for s in sources if not s.problem),
    )


def content_leaks(records: Iterable[ShardRecord]) -> list[Leak]:
    """Clips with the same frames and sound in several splits."""
    return _shared(
        "content",
        ((digest, r.split, clip_id) for r in records for clip_id, digest in r.contents.items()),
    )


def content_hash(clip: Clip) -> str:
    """128 bits over the frames [T, H, W, 3] and the sound of a clip, in hex.

    The sound is the waveform, or the log-mel where rows have no waveform.
    """
    sound = clip.waveform if clip.waveform.size else clip.log_mel
    digest = hashlib.sha256(np.ascontiguousarray(clip.frames).data)
    digest.update(np.ascontiguousarray(sound).data)
    return digest.hexdigest()[:32]


def report_leaks(leaks: Sequence[Leak], *, dataset: str, allow: bool) -> list[str]:
    """One warning a kind of leak, with its counts and first clips.

    Raises:
        DataError: a user's own splits leak and ``allow`` is not set.
    """
    warnings = [
        _told(kind, found)
        for kind in ("video", "content")
        if (found := [leak for leak in leaks if leak.what == kind])
    ]
    if warnings and dataset not in PUBLISHED and not allow:
        raise DataError(
            f"the splits leak: {'; '.join(warnings)}. Put all clips of a video into one split, "
            "or accept it with allow_leaks=true."
        )
    return warnings


def _shared(what: str, items: Iterable[tuple[str, str, str]]) -> list[Leak]:
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for key, split, clip_id in items:
        groups[key].append((split, clip_id))
    return [
        Leak(what, tuple(clips))
        for clips in groups.values()
        if len({split for split, _ in clips}) > 1
    ]


def _told(kind: str, leaks: list[Leak]) -> str:
    num_clips = sum(len(leak.clips) for leak in leaks)
    noun = "source videos" if kind == "video" else "contents (same frames and sound)"
    named = [
        " = ".join(f"{clip_id} ({split})" for split, clip_id in _one_a_split(leak))
        for leak in leaks[:_NUM_NAMED]
    ]
    more = f", and {len(leaks) - _NUM_NAMED} more" if len(leaks) > _NUM_NAMED else ""
    head = f"{noun} in several splits: {len(leaks)} ({num_clips} clips)"
    return f"{head}, {', '.join(named)}{more}"


def _one_a_split(leak: Leak) -> list[tuple[str, str]]:
    return sorted(dict(reversed(leak.clips)).items())  # the first clip of each split
