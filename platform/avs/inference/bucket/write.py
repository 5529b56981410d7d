"""The last stage: the masks of a video are joined, written and committed.

The parts of a long video wait in ``out/_parts`` until the writer of whichever came last finds all
of them there. Two that finish together may both join: they write the same bytes. Before the first
file of a new version is written the record of the old one goes, so that nothing mixed counts.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from avs import storage
from avs.config import dump
from avs.errors import DataError, MediaError
from avs.inference.bucket.job import (
    COMMIT,
    BucketJob,
    Masks,
    Outcome,
    committed,
    outcome_of,
)
from avs.inference.outputs import (
    OUTPUT_NAMES,
    folder_name,
    is_output,
    need_video,
    write_outputs,
)
from avs.inference.track import NO_SOUND, MaskTrack
from avs.lease import check_owner
from avs.media.masks import rle_area
from avs.patience import patiently

__all__ = ["PARTS", "write_masks"]

PARTS = "_parts"
_PUTS_AT_ONCE = 8  # a bucket takes as long for a small picture as for nothing


def write_masks(masks: Masks, job: BucketJob) -> Outcome | None:
    """Write a part; the row of its video where this was the last one missing, else None.

    Raises what says nothing about the video: a lost lease, a storage that is away, a full disk.
    """
    try:
        return patiently(lambda: _written(masks, job))
    except Exception as error:  # one bad video must not end the job
        return outcome_of(error, masks.video, stage="write")


def _written(masks: Masks, job: BucketJob) -> Outcome | None:
    done = committed(job, masks.video)  # by a call that was repeated, or by another joiner
    if done is not None:
        return Outcome(done)
    if masks.is_last and masks.part == 0:
        return Outcome(_commit(masks, job))
    whole = _joined(masks, job)
    if whole is None:
        return None
    row = _commit(whole, job)
    storage.remove(_parts_folder(masks, job))
    return Outcome(row)


def _commit(masks: Masks, job: BucketJob) -> dict[str, Any]:
    """Write all outputs and then the record that makes them count; returns the row."""
    begun_s = time.perf_counter()
    video, track = masks.video, masks.track
    track.masks.sort(key=lambda mask: mask.time_s)
    if not masks.has_sound and NO_SOUND not in track.warnings:
        track.warnings.append(NO_SOUND)
    folder = storage.join(job.out, folder_name(video.name))
    storage.remove(storage.join(folder, COMMIT))  # of another version or checkpoint
    names = _write_files(masks, job, folder)
    row = _row(masks, job)
    seconds = masks.seconds | {"write": time.perf_counter() - begun_s}
    row["seconds"] = round(sum(seconds.values()), 3)
    row["timings"] = {stage: round(value, 4) for stage, value in seconds.items()}
    check_owner(job.out, job.owner)
    record = {"key": job.key, "source": dump(video.source), "row": row, "files": names}
    storage.write_json(storage.join(folder, COMMIT), record)
    # Of another version or checkpoint. A video clip.mp4/1.mp4 has its folder in that of clip.mp4.
    kept = set(names)
    for info in storage.list_files(folder):
        if info.path not in kept and is_output(info.path):
            storage.remove(storage.join(folder, info.path))
    return row


def _write_files(masks: Masks, job: BucketJob, folder: str) -> list[str]:
    """The outputs, made in a local folder and then put in place; returns their names."""
    path = uri = masks.video.source.uri
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if need_video(job.outputs):  # a bucket's is fetched again, as it may be on another node
            path = stack.enter_context(storage.local_copy(uri))
        try:
            names = write_outputs(masks.track, scratch, job.outputs, video_path=path)
        except MediaError as error:
            raise MediaError(str(error).replace(path, masks.video.name)) from error
        threads = stack.enter_context(ThreadPoolExecutor(_PUTS_AT_ONCE))
        targets = [storage.join(folder, name) for name in names]
        list(threads.map(storage.put_file, [scratch / name for name in names], targets))
    return names


def _row(masks: Masks, job: BucketJob) -> dict[str, Any]:
    track, folder = masks.track, folder_name(masks.video.name)
    pixels = track.size_px[0] * track.size_px[1]
    area = [sum(rle_area(rle) for rle in mask.rles.values()) / pixels for mask in track.masks]
    found = {track.class_names[number] for mask in track.masks for number in mask.rles}
    return {
        "video": masks.video.name,
        "status": "ok",
        "reason": "",
        "stage": "",
        "folder": folder,
        "duration_s": track.duration_s,
        "num_masks": len(track),
        "categories": sorted(found),
        "mask_time_s": [mask.time_s for mask in track.masks],
        "mask_area": [round(share, 6) for share in area],
        "mean_area": round(float(np.mean(area)), 6) if area else 0.0,
        "outputs": {kind.value: f"{folder}/{OUTPUT_NAMES[kind]}" for kind in job.outputs},
        "warnings": track.warnings,
    }


def _parts_folder(masks: Masks, job: BucketJob) -> str:
    video = masks.video
    text = "\n".join((job.key, video.name, video.source.version))
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:24]
    return storage.join(job.out, PARTS, digest)


def _joined(masks: Masks, job: BucketJob) -> Masks | None:
    """The whole video, once all of its parts are there."""
    folder = _parts_folder(masks, job)
    last = "-last" if masks.is_last else ""
    stored = {
        "track": masks.track.to_json(),
        "has_sound": masks.has_sound,
        "seconds": masks.seconds,
    }
    storage.write_json(storage.join(folder, f"{masks.part:06d}{last}.json"), stored)
    names = [info.path for info in storage.list_files(folder)]
    if not names or not names[-1].endswith("-last.json") or int(names[-1][:6]) + 1 != len(names):
        return None
    try:
        parts = [storage.read_json(storage.join(folder, name)) for name in names]
    except DataError:  # another joiner was faster, and has committed and tidied up
        return None
    tracks = [MaskTrack.from_json(part["track"]) for part in parts]
    whole = tracks[-1]
    whole.masks = [mask for track in tracks for mask in track.masks]
    seconds: Counter[str] = Counter()
    for part in parts:
        seconds.update(part["seconds"])
    return Masks(
        video=masks.video,
        part=0,
        is_last=True,
        track=whole,
        has_sound=parts[-1]["has_sound"],
        seconds=dict(seconds),
    )
