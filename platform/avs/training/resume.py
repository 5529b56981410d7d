"""Where a run begins, goes on and is written down: between the state of a rank and its folder.

A checkpoint holds the weights that are used; with a moving average those are the average's, and
the weights under training go into trainer_state.pt beside the optimiser.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from avs.config import dump
from avs.training.card import model_card
from avs.training.checkpoint import check_alignment, load_checkpoint, save_checkpoint
from avs.training.init_from import start_from
from avs.training.lineage import StartedFrom, lineage_of, read_lineage
from avs.training.optimiser import load_state
from avs.training.run import Run
from avs.training.state import HasTrainingState, TrainingState

__all__ = ["begin", "commit"]


def begin(state: TrainingState, run: Run) -> None:
    """Go on from the last committed epoch of the run, or begin as ``train.init_from`` says.

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


def _go_on(state: TrainingState, run: Run, uri: str, trainer: dict[str, Any]) -> None:
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
    state.history = trainer["history"]
    known = read_lineage(uri)
    _note_lineage(state, uri, None if known is None else known.started_from)
    if state.worker.rank == 0:
        run.repair(state.history)


def _note_lineage(
    state: TrainingState, earlier: str | None, started_from: StartedFrom | None
) -> None:
    """Only rank 0 writes it, so only rank 0 reads the ids of the clips."""
    if state.worker.rank == 0:
        own = lineage_of(state.reader.manifests, started_from=started_from)
        state.lineage = own.joined(None if earlier is None else read_lineage(earlier))


def commit(state: TrainingState, run: Run) -> None:
    """Write the checkpoint of the last epoch and make it count; on rank 0.

    Raises:
        LeaseError: the run no longer owns its folder.
    """
    metrics, lineage = state.history[-1], state.lineage
    state.worker.check_lease()
    plain = dump(state.config)
    save_checkpoint(
        run.epoch_uri(metrics["epoch"]),
        weights=state.weights(),
        leave_out_audio=not (
            state.config.checkpoint.self_contained or state.system.audio.trainable
        ),
        config={**plain, "model": dump(state.model_config)},
        clip=state.clip,
        metrics=metrics,
        card=model_card(
            replace(state.config, model=state.model_config),
            metrics,
            manifests=list(state.reader.manifests.values()),
            audio_trained=state.system.audio.trainable,
            started_from=None if lineage is None else lineage.started_from,
        ),
        trainer_state=_trainer_state(state),
        lineage=lineage,
    )
    state.worker.check_lease()
    run.commit(state.history)


def _trainer_state(state: TrainingState) -> dict[str, Any]:
    trainer: dict[str, Any] = {
        "optimizer": state.optimizer.state_dict(),
        "history": state.history,
    }
    if state.average is not None:
        raw = state.average.raw(state.system)
        trainer["weights"] = {name: value.detach().cpu() for name, value in raw.items()}
    if state.scaler.is_enabled():
        trainer["scaler"] = state.scaler.state_dict()
    segmenter = state.system.segmenter
    if isinstance(segmenter, HasTrainingState):
        trainer["segmenter"] = segmenter.training_state()
    return trainer
