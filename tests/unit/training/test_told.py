"""What a training is told of: allowed changes between two starts, paths of files, lost leases."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from small_configs import model_config, train_config

from avs import storage
from avs.config import dump
from avs.errors import LeaseError
from avs.prepare.manifest import read_manifest
from avs.training.card import model_card
from avs.training.config import Schedule, TrainConfig
from avs.training.distributed import _worker_loop
from avs.training.resume import told_changes
from avs.training.run import Run


def _told(before: TrainConfig, now: TrainConfig) -> list[str]:
    run = Run(before.out)
    run.claim(before)
    storage.write_json(storage.join(before.out, "last.json"), {"checkpoint": "checkpoints/x"})
    return list(told_changes(run.claim(now), now, 15))


def test_a_number_of_workers_that_changes_the_step_is_told(tmp_path: Path) -> None:
    config = train_config(tmp_path / "data", tmp_path / "run", batch_size=4)
    eight = replace(config, scale=replace(config.scale, num_workers=8))
    (line,) = _told(eight, replace(config, scale=replace(config.scale, num_workers=2)))
    assert line == (
        "a step has 8 clips from now on, 32 before; "
        "scale.num_workers=8 with scale.min_workers=2 keeps them"
    )


def test_more_epochs_move_a_rate_that_falls_to_the_end_of_a_run(tmp_path: Path) -> None:
    config = train_config(
        *(tmp_path / "data", tmp_path / "run"),
        epochs=15,
        learning_rate=1e-3,
        schedule=Schedule.COSINE,
    )
    longer = replace(config, train=replace(config.train, epochs=30))
    (line,) = _told(config, longer)
    assert line.startswith("the learning rate goes from 0 to 0.0005: train.schedule=cosine")
    constant = replace(longer, train=replace(longer.train, schedule=Schedule.CONSTANT))
    storage.remove(config.out)
    assert _told(replace(constant, train=replace(constant.train, epochs=15)), constant) == []


def test_every_local_path_is_made_absolute_and_every_other_name_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = model_config()
    model = replace(model, backbone_weights="timm", audio_weights="a.pth,s3://b/c.pth,hf-hub:d/e/f")
    config = train_config(Path("data"), Path("run"), init_from="earlier")
    found = replace(config, model=model).map_paths(storage.absolute)
    here = os.fspath(tmp_path)
    assert (found.out, found.data.prepared) == (f"{here}/run", f"{here}/data")
    assert found.train.init_from == f"{here}/earlier"
    assert found.model.backbone_weights == "timm"
    assert found.model.audio_weights == f"{here}/a.pth,s3://b/c.pth,hf-hub:d/e/f"
    c3n = replace(model, name="c3n", options={"similarity": "own.npz"}, audio_network="panns")
    assert c3n.map_files(storage.absolute).options == {"similarity": f"{here}/own.npz"}


def test_a_rank_that_does_not_see_the_lease_ends_before_it_trains(
    prepared: Path, tmp_path: Path
) -> None:
    config = train_config(prepared, tmp_path / "run")
    with pytest.raises(LeaseError, match="give an out= that every node reaches"):
        _worker_loop({"config": dump(config), "owner": "elsewhere-1", "cpus": 0.0, "run": None})
    assert not (tmp_path / "run").exists()


def test_the_card_names_the_weight_of_every_loss_that_counts(
    prepared: Path, tmp_path: Path
) -> None:
    config = train_config(prepared, tmp_path / "run")
    binary = replace(config, model=model_config(name="avsc", options={"class_weight": 2.0}))
    metrics = {"epoch": 1, "val_j": 0.5, "val_f": 0.5}
    manifests = [read_manifest(str(prepared))]
    assert "2 x class" in model_card(binary, metrics, manifests=manifests, audio_trained=False)
