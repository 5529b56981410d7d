"""What a training left in its folder, as figures: rates of its steps, and when it reached what.

Of the job only files count that every user of it has: metrics.jsonl, TensorBoard's event files.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, harmonic_mean

from avs.errors import AvsError

__all__ = ["run_moments", "steady_figures"]

_HEADER_BYTES, _CHECKSUM_BYTES = 12, 4
_WALL_TIME, _STEP, _SUMMARY = 0x09, 0x10, 0x2A  # keys of fields 1, 2 and 5 of an Event


def steady_figures(out: Path) -> dict[str, float]:
    """Of all epochs but the first in ``out``/metrics.jsonl: clips/s of their steps, and the share
    of that time in which steps waited for clips.

    Every line has ``clips_per_s`` and ``stall`` of an epoch; all epochs have the same clips.
    """
    lines = (out / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines][1:]
    if not epochs:
        raise AvsError(f"{out}/metrics.jsonl has no second epoch")
    return {
        "clips_per_s": harmonic_mean([epoch["clips_per_s"] for epoch in epochs]),
        "stall": fmean(epoch["stall"] for epoch in epochs),
    }


def run_moments(run: Path) -> dict[str, float]:
    """When (Unix time) a run of the job reached what, by name.

    ``driver``: the driver has imported, joined Ray and claimed the folder, and starts the workers.
    ``begun``: their networks stand, the first step comes next. ``first_step``: it is done.
    ``epoch``: the first epoch is validated and its checkpoint counts.
    """
    summaries = [
        (step, time_s)
        for path in sorted((run / "tensorboard").iterdir())
        for step, time_s in _summaries(path.read_bytes())
    ]
    after_first = [time_s for step, time_s in summaries if step == 1]
    if not after_first:
        raise AvsError(f"{run}/tensorboard tells of no first step")
    return {
        "driver": (run / "config.yaml").stat().st_mtime,
        "begun": summaries[0][1],
        "first_step": after_first[0],
        "epoch": (run / "metrics.jsonl").stat().st_mtime,
    }


def _summaries(data: bytes) -> Iterator[tuple[int, float]]:
    """Step and wall time of each event with a summary, of a file of this platform.

    It writes the fields of an event in the order of their numbers (avs.training.event_file).
    """
    place = 0
    while place + _HEADER_BYTES <= len(data):
        (size,) = struct.unpack_from("<Q", data, place)
        event = data[place + _HEADER_BYTES : place + _HEADER_BYTES + size]
        place += _HEADER_BYTES + size + _CHECKSUM_BYTES
        if len(event) < size:
            return
        assert (event[0], event[9]) == (_WALL_TIME, _STEP), "an event without time or step"
        (time_s,) = struct.unpack_from("<d", event, 1)
        step, end = _varint(event, 10)
        if event[end] == _SUMMARY:
            yield step, time_s


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A value and the place behind it."""
    value, shift = 0, 0
    while data[place] & 0x80:
        value |= (data[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
    return value | data[place] << shift, place + 1
