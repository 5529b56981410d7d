"""Any folder of runs means its best checkpoint, and says which one that is and why."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from avs import storage
from avs.errors import CheckpointError
from avs.training.checkpoint import load_checkpoint
from avs.training.resolve import find_checkpoint, resolve_checkpoint


def checkpoint(uri: str) -> str:
    for name in ("config.yaml", "weights.safetensors", "metrics.json"):
        storage.write_bytes(storage.join(uri, name), b"{}")
    return uri


def run(uri: str, val_j: float | None) -> str:
    """A run whose best epoch reached ``val_j``; returns that epoch's checkpoint."""
    pointer = {"checkpoint": "checkpoints/epoch-0001", "val_j": val_j}
    storage.write_json(storage.join(uri, "best.json"), pointer)
    storage.write_json(storage.join(uri, "last.json"), {"checkpoint": "checkpoints/epoch-0002"})
    storage.write_bytes(storage.join(uri, "config.yaml"), b"{}")
    return checkpoint(storage.join(uri, "checkpoints/epoch-0001"))


def test_a_checkpoint_means_itself_and_a_run_its_best_one(place: str) -> None:
    best = run(storage.join(place, "run"), 0.25)
    assert str(find_checkpoint(best)) == best
    found = find_checkpoint(storage.join(place, "run"))
    assert str(found) == f"{best} (the best of {place}/run, validation J 0.250)"


def test_a_run_without_a_validation_means_its_last_epoch_and_claims_no_score(place: str) -> None:
    best = run(place, None)
    assert str(find_checkpoint(place)) == f"{best} (the best of {place})"


def test_a_run_inside_its_first_epoch_means_its_last_checkpoint(place: str) -> None:
    last = checkpoint(storage.join(place, "checkpoints/epoch-0001-step-000020"))
    pointer = {"checkpoint": "checkpoints/epoch-0001-step-000020"}
    storage.write_json(storage.join(place, "last.json"), pointer)
    storage.write_bytes(storage.join(place, "config.yaml"), b"{}")
    assert (
        str(find_checkpoint(place)) == f"{last} (the last of {place}, where no epoch has ended yet)"
    )


def test_a_study_or_any_folder_of_runs_means_the_best_of_all(place: str) -> None:
    run(storage.join(place, "runs/gated/seed-0"), 0.2)
    best = run(storage.join(place, "runs/gated/seed-1"), 0.5)
    run(storage.join(place, "runs/plain/seed-0"), None)
    found = find_checkpoint(place)
    assert str(found) == f"{best} (the best of 3 runs below {place}, validation J 0.500)"
    assert resolve_checkpoint(storage.join(place, "runs/gated")) == best


def test_a_sweep_comes_before_its_trials_whose_best_one_it_copied(place: str) -> None:
    sweep = storage.join(place, "sweep")
    run(storage.join(sweep, "trials/0003"), 0.5)
    assert find_checkpoint(sweep).uri == f"{sweep}/trials/0003/checkpoints/epoch-0001"  # unfinished
    copied = checkpoint(storage.join(sweep, "checkpoint"))
    storage.write_json(storage.join(sweep, "best.json"), {"checkpoint": "checkpoint", "val_j": 0.5})
    assert find_checkpoint(sweep).uri == copied
    assert find_checkpoint(place).uri == copied


def test_runs_that_cannot_be_compared_are_named(place: str) -> None:
    run(storage.join(place, "a"), None)
    run(storage.join(place, "b"), None)
    with pytest.raises(CheckpointError, match=r"2 runs without a validation J \(a, \.\.\.\).*name"):
        find_checkpoint(place)


def test_what_holds_no_run_is_refused_with_what_would_do(place: str) -> None:
    storage.write_bytes(storage.join(place, "x/y.txt"), b"")
    with pytest.raises(
        CheckpointError, match=r"has no config\.yaml: it is not a checkpoint, a run"
    ):
        find_checkpoint(place)
    with pytest.raises(CheckpointError, match="nothing does not exist"):
        find_checkpoint(storage.join(place, "nothing"))


def test_whoever_loads_a_checkpoint_may_name_a_folder_of_runs(
    run_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(run_folder, tmp_path / "runs/first")
    best = resolve_checkpoint(str(tmp_path / "runs/first"))
    assert load_checkpoint(str(tmp_path)).uri == best
