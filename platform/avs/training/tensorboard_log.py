"""TensorBoard event files of a run, in OUT/tensorboard, by optimiser step of the run.

A file holds the events between two checkpoints and is whole before the second one counts, so
nothing is lost with a process; when a run goes on, events after the step that it goes on from are
cut out, so no step is there twice. Trade-off: a folder on S3 gets its files with the checkpoints
only, as an object cannot grow.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

import yaml

from avs import storage
from avs.code_version import code_version
from avs.config import dump
from avs.training.event_file import (
    first_records,
    image_value,
    kept_records,
    scalar_value,
    summary_event,
    text_value,
)
from avs.training.observers import Observer, SeenEpoch, SeenStart, SeenSteps, epoch_scalars
from avs.training.overlays import Overlays

__all__ = ["TensorBoardLog"]

_FOLDER = "tensorboard"
_PREFIX, _SUFFIX = "events.out.tfevents.", ".avs"


class TensorBoardLog(Observer):
    """Writes scalars, the clips of ``overlays``, the configuration and the version of the code."""

    def __init__(self, overlays: Overlays) -> None:
        self._overlays = overlays
        self._uri = ""
        self._saved_step = 0
        self._waiting = b""  # for a file that cannot grow
        self._is_begun = False

    def on_start(self, seen: SeenStart) -> None:
        """Cut what came after ``seen.step``, and say what is trained with which code."""
        self._uri = storage.join(seen.out, _FOLDER)
        self._saved_step = seen.step
        if not self._cut_after(seen.step):
            for metrics in seen.state.history:  # of before anybody logged
                step = metrics["epoch"] * seen.state.num_steps
                self._write_scalars(epoch_scalars(metrics), step)
        self._write([text_value(tag, text) for tag, text in _texts(seen).items()], seen.step)

    def on_steps(self, seen: SeenSteps) -> None:
        """A point of each curve."""
        self._write_scalars(seen.scalars, seen.step)

    def on_epoch(self, seen: SeenEpoch) -> None:
        """Scores and pictures."""
        self._write_scalars(epoch_scalars(seen.metrics), seen.step)
        values = []
        for overlay in self._overlays.of(seen):
            height_px, width_px = overlay.image.shape[:2]
            tag = f"frame, truth, prediction/{overlay.clip_id}"
            values.append(image_value(tag, overlay.png(), height_px=height_px, width_px=width_px))
        if values:
            self._write(values, seen.step)

    def on_save(self, step: int) -> None:
        """End the file."""
        if self._waiting:
            storage.write_bytes(self._file_uri(), self._waiting)
        self._saved_step, self._waiting, self._is_begun = step, b"", False

    def _cut_after(self, step: int) -> bool:
        """Drop events after ``step``; whether any are left."""
        left = []
        for info in storage.list_files(self._uri) if storage.exists(self._uri) else []:
            if not (info.path.startswith(_PREFIX) and info.path.endswith(_SUFFIX)):
                continue
            if _first_step(info.path) >= step:
                storage.remove(storage.join(self._uri, info.path))
            else:
                left.append(info.path)
        if not left:
            return False
        uri = storage.join(self._uri, left[-1])  # earlier files end where a later one begins
        data = storage.read_bytes(uri)
        kept = kept_records(data, last_step=step)
        if kept != data:
            storage.write_bytes(uri, kept)
        return True

    def _write_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        # A step that fp16 skips has a gradient norm that is no number.
        found = {tag: value for tag, value in scalars.items() if math.isfinite(value)}
        self._write([scalar_value(tag, value) for tag, value in found.items()], step)

    def _write(self, values: list[bytes], step: int) -> None:
        now_s = time.time()
        records = summary_event(now_s, step=step, values=values)
        if not self._is_begun:
            records = first_records(now_s, step=self._saved_step) + records
        if storage.is_local(self._uri):
            _append(Path(self._file_uri()), records)
        else:
            self._waiting += records
        self._is_begun = True

    def _file_uri(self) -> str:
        return storage.join(self._uri, f"{_PREFIX}{self._saved_step:010d}{_SUFFIX}")


def _append(path: Path, records: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size_bytes = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(records)
    except OSError:  # a part of a record would hide all that follow
        os.truncate(path, size_bytes)
        raise


def _first_step(name: str) -> int:
    """The step that the file's events follow."""
    return int(name.removeprefix(_PREFIX).removesuffix(_SUFFIX))


def _texts(seen: SeenStart) -> dict[str, str]:
    """Markdown by name; four spaces make a block that is shown as it is."""
    state = seen.state
    plain = {**dump(state.config), "model": dump(state.model_config)}
    config = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    return {
        "configuration": "".join(f"    {line}\n" for line in config.splitlines()),
        "code": code_version(),
    }
