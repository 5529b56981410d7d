"""The first stage: a video becomes parts of a few windows each, which any segmenter may take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain, islice

import numpy as np

from avs import storage
from avs.errors import DataError, MediaError
from avs.inference.bucket.job import (
    BucketJob,
    Cut,
    Outcome,
    Video,
    outcome_of,
)
from avs.inference.network_input import window_arrays
from avs.inference.track import MaskTrack
from avs.media.pieces import MediaPart, MediaWindow, decode_pieces, media_rounds, part_of
from avs.media.sampling import native_rate
from avs.media.sandbox import decode_video, probe
from avs.media.video import DecodedVideo
from avs.patience import patiently

__all__ = ["cut_video"]

# 24 MB of frames at 224 px with T = 5: an hour of video is spread over twenty calls.
WINDOWS_PER_PART = 32
_NO_FRAMES = np.zeros((0, 0, 0, 3), np.uint8)


def cut_video(video: Video, job: BucketJob) -> Iterator[Cut | Outcome]:
    """The parts of a video in order; of one that cannot be used its row.

    A file that turns out to be damaged later ends with a row after some parts. Raises what says
    nothing about the video: no decoder, a storage that is away, a full disk.
    """
    try:
        with ExitStack() as stack:
            uri = video.source.uri
            path = patiently(lambda: stack.enter_context(storage.local_copy(uri)))
            patiently(lambda: _check_unchanged(video))
            try:
                yield from _Cutter(video, path, job).parts()
            except MediaError as error:
                # Not where a copy of it lay on the way.
                raise MediaError(str(error).replace(path, video.name)) from error
    except Exception as error:  # one bad video must not end the job
        yield outcome_of(error, video, stage="decode")


def _check_unchanged(video: Video) -> None:
    """What is committed must be of the version that it is committed for."""
    source = video.source
    if storage.file_version(source.uri) != (source.size_bytes, source.version):
        raise DataError(f"{source.uri} changed since it was listed: run the job again.")


class _Cutter:
    """One video."""

    def __init__(self, video: Video, path: str, job: BucketJob) -> None:
        self._video, self._path, self._job = video, path, job
        rate = native_rate(probe(path).fps) if job.masks_per_s is None else job.masks_per_s
        self._track = MaskTrack.empty(job.clip.class_names, masks_per_s=rate)
        self._has_sound = False

    def parts(self) -> Iterator[Cut]:
        begun_s = time.perf_counter()
        windows = self._windows()
        group = list(islice(windows, WINDOWS_PER_PART))
        if not group:
            raise MediaError(f"{self._path}: has no frame")
        part = 0
        while group:
            following = list(islice(windows, WINDOWS_PER_PART))  # tells whether this is the last
            frames, sound, valid = window_arrays(
                group, self._job.clip, input_kind=self._job.input_kind
            )
            yield Cut(
                video=self._video,
                part=part,
                is_last=not following,
                track=replace(self._track, masks=[], warnings=list(self._track.warnings)),
                has_sound=self._has_sound,
                windows=[replace(w, frames=_NO_FRAMES, sound=None) for w in group],
                frames=frames,
                sound=sound,
                frame_valid=valid,
                seconds={"decode": time.perf_counter() - begun_s},
            )
            begun_s = time.perf_counter()
            group, part = following, part + 1

    def _windows(self) -> Iterator[MediaWindow]:
        clip, rate = self._job.clip, self._track.masks_per_s
        pieces = decode_pieces(
            self._path,
            size_px=(clip.image_size_px, clip.image_size_px),
            samples_per_s=rate,
            window_frames=clip.num_frames,
            decode=decode_video,
        )
        return chain.from_iterable(
            media_rounds(map(self._seen, pieces), window_frames=clip.num_frames, samples_per_s=rate)
        )

    def _seen(self, video: DecodedVideo) -> MediaPart:
        self._track.note(video)
        self._has_sound = self._has_sound or video.samples is not None
        return part_of(video)
