"""Where a run begins or goes on: from its last checkpoint, or as ``train.init_from`` says.

A checkpoint holds the weights that are used; with a moving average those are the average's, and
the weights under training lie in trainer_state.pt beside the optimiser. One from the middle of an
epoch holds the sums of that epoch too. Random states are not among it: every draw is a function of
(seed, epoch, step, lane).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from avs.config_changes import Change
from avs.errors import ConfigError
from avs.training.checkpoint import check_alignment, load_checkpoint
from avs.training.config import Schedule, TrainConfig
from avs.training.init_from import start_from
from avs.training.lineage import Lineage, StartedFrom, content_hash, lineage_of, read_lineage
from avs.training.optimiser import load_state
from avs.training.run import EpochMetrics, Run
from avs.training.schedule import learning_rate
from avs.training.state import HasTrainingState, TrainingState
from avs.training.tally import Tally

__all__ = ["begin", "check_lanes", "told_changes", "told_position"]


def begin(state: TrainingState, run: Run) -> None:
    """Go on from the last checkpoint of the run, or begin as ``train.init_from`` says.

    Raises:
        CheckpointError, ConfigError, DataError: what is there cannot be gone on with.
    """
    found = run.last_state()
    if found is not None:
        _go_on(state, run, *found)
        return
    started_from, earlier = None, None
    if state.config.train.init_from is not None:
        started_from = start_from(state.system, state.config)
        earlier = started_from.checkpoint
        if state.average is not None:
            state.average.load(state.system.state_dict())
    _note_lineage(state, earlier, started_from)
    if state.worker.rank == 0 and started_from is not None:
        run.report_progress(f"starting from {started_from}", every_s=0.0)


def check_lanes(config: TrainConfig, begun: int | None, *, num_lanes: int) -> None:
    """Refuse to go on inside an epoch that was cut into another number of parts.

    begun: parts of the steps so far, None at an epoch's end. num_lanes: of the steps to come.

    Raises:
        ConfigError: with both numbers and the way out.
    """
    if begun not in (None, num_lanes):
        raise ConfigError(
            f"out={config.out} was stopped inside an epoch of steps for {begun} workers, "
            f"scale.num_workers is {num_lanes} now: give scale.num_workers={begun}, and "
            "scale.min_workers for going on with fewer; another number is for the next epoch."
        )


def told_position(metrics: EpochMetrics) -> str:
    """Where a checkpoint with these metrics stands, in words."""
    epoch = f"epoch {metrics['epoch']}"
    return f"step {metrics['step']} of {epoch}" if "step" in metrics else epoch


def told_changes(changed: Sequence[Change], config: TrainConfig, epoch: int) -> Iterator[str]:
    """What allowed changes do to a run that goes on after ``epoch``, where that is easily missed.

    changed: as :meth:`avs.training.run.Run.claim` returns it.
    """
    loop = config.train
    each = loop.batch_size * loop.accumulate_steps
    for key, now, before in changed:
        if key == "scale.num_workers":
            yield (
                f"a step has {now * each} clips from now on, {before * each} before; "
                f"scale.num_workers={before} with scale.min_workers={min(now, before)} keeps them"
            )
        if key == "train.epochs" and loop.schedule in (Schedule.COSINE, Schedule.POLY):
            plain = replace(loop, warmup_steps=0)
            rates = (
                learning_rate(replace(plain, epochs=epochs), epoch, steps_per_epoch=1)
                for epochs in (max(before, epoch), now)
            )
            yield (
                f"the learning rate goes from {next(rates):.3g} to {next(rates):.3g}: "
                f"train.schedule={loop.schedule.value} is that of {now} epochs now, not {before}"
            )


def _go_on(state: TrainingState, run: Run, uri: str, trainer: dict[str, Any]) -> None:
    begun = trainer.get("position", {}).get("num_lanes")
    check_lanes(state.config, begun, num_lanes=state.num_lanes)
    checkpoint = load_checkpoint(uri)
    check_alignment(
        checkpoint, state.clip.audio_alignment, prepared=", ".join(state.config.data.folders)
    )
    state.system.load_state_dict({**checkpoint.weights, **trainer.get("weights", {})})
    if state.average is not None:
        state.average.load(checkpoint.weights)
    load_state(state.optimizer, trainer["optimizer"])
    if "scaler" in trainer:
        state.scaler.load_state_dict(trainer["scaler"])
    segmenter = state.system.segmenter
    if isinstance(segmenter, HasTrainingState):
        segmenter.load_training_state(trainer["segmenter"])
    state.history, state.goes_on = trainer["history"], True
    if "position" in trainer:
        worker = state.worker
        state.tally = Tally.from_state(
            trainer["position"]["tally"], rank=worker.rank, world_size=worker.world_size
        )
        state.statistics.load(trainer["position"]["statistics"])
    known = read_lineage(uri)
    _check_data(state, run, known)
    _note_lineage(state, uri, None if known is None else known.started_from)
    if state.worker.rank == 0:
        run.repair(state.history)


def _check_data(state: TrainingState, run: Run, known: Lineage | None) -> None:
    """Refuse to go on inside an epoch over other clips, whose order would be another one; between
    epochs, say so."""
    for folder, manifest in state.reader.manifests.items():
        seen = {own.sha256 for own in known.folders if own.prepared == folder} if known else set()
        if not seen or content_hash(manifest) in seen:
            continue
        if state.tally is not None:
            raise ConfigError(
                f"out={state.config.out} was stopped inside epoch {state.tally.epoch}, and {folder}"
                " was prepared anew since: which clips the epoch has seen no longer counts. Put "
                "the data back, or give another out= with train.init_from=, or this one removed."
            )
        if state.worker.rank == 0:
            told = f"{folder} was prepared anew; from now on the new clips are trained on"
            run.report_progress(told, every_s=0.0)


def _note_lineage(
    state: TrainingState, earlier: str | None, started_from: StartedFrom | None
) -> None:
    """Only rank 0 writes it, so only rank 0 reads the ids of the clips."""
    if state.worker.rank == 0:
        own = lineage_of(state.reader.manifests, started_from=started_from)
        state.lineage = own.joined(None if earlier is None else read_lineage(earlier))
