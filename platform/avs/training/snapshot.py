"""A checkpoint of a run in memory: copied from the networks at one step, written at any time after.

Training changes its tensors in place, so a copy has to be made before the next step; turning it
into files and bringing these to their folder can be left to a thread. Trade-off: memory for one
more copy of weights and optimiser, instead of a step that waits for a bucket.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from avs import storage
from avs.config import dump
from avs.errors import CheckpointError
from avs.training.card import model_card
from avs.training.checkpoint import save_checkpoint
from avs.training.lineage import Lineage
from avs.training.run import EpochMetrics, Run
from avs.training.state import HasTrainingState, TrainingState

__all__ = ["Snapshot", "commit", "take_snapshot"]

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What one checkpoint is made of; nothing in it is shared with the training that goes on."""

    uri: str
    weights: dict[str, Tensor]
    trainer: dict[str, Any]
    history: list[EpochMetrics]
    metrics: EpochMetrics
    card: str
    lineage: Lineage | None


def take_snapshot(
    state: TrainingState,
    run: Run,
    *,
    tally: dict[str, Any] | None = None,
    statistics: dict[str, Tensor] | None = None,
) -> Snapshot:
    """Copy what a checkpoint needs, on rank 0.

    tally, statistics: of the epoch in progress (:meth:`avs.training.tally.Tally.state`,
    :meth:`avs.training.lane_buffers.LaneBuffers.state`); None at an epoch's end, when its metrics
    are the last of the history and all lanes have the same statistics.
    """
    trainer = _trainer_state(state)
    if tally is None:
        metrics = state.history[-1]
        uri = run.epoch_uri(metrics["epoch"])
    else:
        epoch, step = tally["epoch"], tally["step"]
        place = {"epoch": epoch, "step": step, "num_lanes": state.num_lanes}
        metrics = {**place, "val_j": None, "val_f": None}
        uri = run.step_uri(epoch, step)
        trainer["position"] = {
            "num_lanes": state.num_lanes,
            "tally": tally,
            "statistics": statistics,
        }
    lineage = state.lineage
    return Snapshot(
        uri=uri,
        weights=_copied(state.weights()),
        trainer=_copied(trainer),
        history=list(state.history),
        metrics=metrics,
        card=model_card(
            replace(state.config, model=state.model_config),
            metrics,
            manifests=list(state.reader.manifests.values()),
            audio_trained=state.system.audio.trainable,
            started_from=None if lineage is None else lineage.started_from,
        ),
        lineage=lineage,
    )


def commit(snapshot: Snapshot, state: TrainingState, run: Run) -> None:
    """Write a checkpoint and make it count; what lies there stays whole if that fails.

    Raises:
        LeaseError: the run no longer owns its folder.
        CheckpointError: the disk is full.
        StorageError: the storage fails; later it may work.
    """
    config = state.config
    state.worker.check_lease()
    try:
        save_checkpoint(
            snapshot.uri,
            weights=snapshot.weights,
            leave_out_audio=not (config.checkpoint.self_contained or state.system.audio.trainable),
            config={**dump(config), "model": dump(state.model_config)},
            clip=state.clip,
            metrics=snapshot.metrics,
            card=snapshot.card,
            trainer_state=snapshot.trainer,
            lineage=snapshot.lineage,
        )
        state.worker.check_lease()
        keep_best = config.checkpoint.keep_best
        run.commit(snapshot.history, uri=snapshot.uri, keep_best=keep_best)
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise _disk_full(snapshot.uri, run) from error


def _disk_full(uri: str, run: Run) -> CheckpointError:
    """Take back what was written of a checkpoint, unless it counts already."""
    storage.remove_temporaries(run.out)
    last = run.last_uri()
    if last != uri:
        storage.remove(uri)
    there = "nothing was saved before" if last is None else f"{last} is whole"
    return CheckpointError(
        f"{uri} cannot be written, its disk is full; {there}. Make room there, then start the same "
        "command again: it goes on from there."
    )


def _trainer_state(state: TrainingState) -> dict[str, Any]:
    trainer: dict[str, Any] = {
        "optimizer": state.optimizer.state_dict(),
        "history": state.history,
    }
    if state.average is not None:
        trainer["weights"] = state.average.raw(state.system)
    if state.scaler.is_enabled():
        trainer["scaler"] = state.scaler.state_dict()
    segmenter = state.system.segmenter
    if isinstance(segmenter, HasTrainingState):
        trainer["segmenter"] = segmenter.training_state()
    return trainer


def _copied(value: Any) -> Any:
    """Tensors copied to the CPU, in dicts, lists and tuples of their own."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True, memory_format=torch.preserve_format)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(item) for item in value)
    return value
