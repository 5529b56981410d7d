"""report.html of a run while it trains: the page is written again as the run goes on.

At the end of an epoch the page costs up to a second, so it is written once a minute at most; what
costs more, scoring clips under several sounds, is done once, at the end of the run. A run that is
killed therefore has the page of a minute before, and one that is killed in its last scoring gets it
by the same command (:func:`finish_report`).
"""

from __future__ import annotations

import time

from avs import storage
from avs.code_version import code_version
from avs.config import dump
from avs.prepare.manifest import read_manifest
from avs.report.run import BEST, LATEST, SCORES, WORST, write_run_report
from avs.report.run_clips import score_clips
from avs.report.run_figures import overlay_sheet
from avs.training.checkpoint import resolve_checkpoint
from avs.training.config import TrainConfig
from avs.training.lineage import read_lineage
from avs.training.observers import Observer, SeenEpoch, SeenStart
from avs.training.overlays import Overlays
from avs.training.run import Run
from avs.training.state import TrainingState

__all__ = ["RunReport", "finish_report"]


class RunReport(Observer):
    """Writes the page, with the clips of ``overlays`` until the end of the run.

    num_clips: scored at the end (0: none). every_s: at least between two pages before.
    """

    def __init__(self, overlays: Overlays, *, num_clips: int, every_s: float = 60.0) -> None:
        self._overlays, self._num_clips, self._every_s = overlays, num_clips, every_s
        self._written_s = float("-inf")
        self._out = ""
        self._state: TrainingState | None = None
        self._last: SeenEpoch | None = None
        self._code = ""

    def on_start(self, seen: SeenStart) -> None:
        """Nothing is written before the first epoch."""
        self._out, self._state = seen.out, seen.state
        self._written_s = time.monotonic()
        self._code = code_version()

    def on_epoch(self, seen: SeenEpoch) -> None:
        """The page so far, unless the last one is young."""
        self._last = seen
        if time.monotonic() - self._written_s >= self._every_s:
            self._draw_latest(seen)
            state = seen.state
            write_run_report(
                self._out,
                history=state.history,
                config=dump(state.config),
                lineage=state.lineage,
                code=self._code,
            )
            self._written_s = time.monotonic()

    def on_end(self) -> None:
        """The whole page."""
        assert self._state is not None
        if self._last is not None and not self._num_clips:
            self._draw_latest(self._last)
        finish_report(self._state.config, device=str(self._state.worker.device))

    def _draw_latest(self, seen: SeenEpoch) -> None:
        shown = [(overlay.clip_id, overlay.image) for overlay in self._overlays.of(seen)]
        if shown:
            storage.write_bytes(storage.join(self._out, LATEST), overlay_sheet(shown))


def finish_report(config: TrainConfig, *, device: str) -> None:
    """Write the whole page of a run whose epochs are trained; clips are scored unless they were.

    device: ``cpu`` or that of a GPU.
    """
    run, num_clips = Run(config.out), config.logging.report_clips
    checkpoint = resolve_checkpoint(run.out)
    folders = [folder for folder in config.data.folders if _has_validation(folder)]
    if folders and num_clips:
        told = f"scoring up to {num_clips} validation clips for the report"
        run.report_progress(told, every_s=0.0)
        _score(run.out, checkpoint, folders, num_clips=num_clips, device=device)
    write_run_report(
        run.out,
        history=run.read_metrics(),
        config=dump(config),
        lineage=read_lineage(checkpoint),
        code=code_version(),
    )
    run.report_progress(f"-> {storage.join(run.out, 'report.html')}", every_s=0.0)


def _score(out: str, checkpoint: str, folders: list[str], *, num_clips: int, device: str) -> None:
    """Write the figures and the pictures of the best checkpoint's clips, the figures last."""
    uri = storage.join(out, SCORES)
    if storage.exists(uri) and storage.read_json(uri)["checkpoint"] == checkpoint:
        return
    scored = score_clips(checkpoint, folders, num_clips=num_clips, device=device)
    if scored is None:
        return
    for name, sheet in ((BEST, scored.best), (WORST, scored.worst)):
        if sheet is not None:
            storage.write_bytes(storage.join(out, name), sheet)
    storage.write_json(uri, scored.plain)


def _has_validation(folder: str) -> bool:
    return any(shard.split == "val" for shard in read_manifest(folder).shards)
