"""AVSC in the training loop: names from the data, the teacher over a restart, the checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_configs import AVSC_OPTIONS, model_config, train_config

from avs.datasets.synthetic import KINDS
from avs.errors import ConfigError
from avs.inference.predictor import Predictor
from avs.losses import LossConfig
from avs.models import build_system
from avs.training.checkpoint import load_checkpoint, load_trainer_state
from avs.training.config import TrainConfig
from avs.training.loop import train
from avs.training.optimiser import build_optimizer
from avs.training.run import Run
from avs.training.state import TrainingState, Worker


def avsc_config(prepared: Path, out: Path, **changes: Any) -> TrainConfig:
    config = train_config(prepared, out, epochs=2, batch_size=4)
    model = model_config(name="avsc", options=AVSC_OPTIONS | changes)
    return replace(config, model=model, loss=LossConfig(dice_weight=1.0))


def test_categories_come_from_the_train_clips(prepared: Path, tmp_path: Path) -> None:
    state = TrainingState(avsc_config(prepared, tmp_path / "run"), Worker())
    assert state.model_config.category_names == sorted(KINDS)
    assert state.system.segmenter.category_names == tuple(sorted(KINDS))
    plain = TrainingState(train_config(prepared, tmp_path / "plain"), Worker())
    assert plain.model_config.category_names == []


def test_names_that_no_clip_bears_are_refused(prepared: Path, tmp_path: Path) -> None:
    config = avsc_config(prepared, tmp_path / "run")
    some = replace(config, model=replace(config.model, category_names=["cat", min(KINDS)]))
    assert TrainingState(some, Worker()).model_config.category_names == ["cat", min(KINDS)]
    none = replace(config, model=replace(config.model, category_names=["cat", "dog"]))
    with pytest.raises(ConfigError, match=rf"category_names=\['cat', 'dog'\].*{min(KINDS)}"):
        TrainingState(none, Worker())


def test_another_number_of_classes_than_the_data_has_is_refused(
    prepared: Path, tmp_path: Path
) -> None:
    config = avsc_config(prepared, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"model\.num_classes=5: .* has 2 classes"):
        TrainingState(replace(config, model=replace(config.model, num_classes=5)), Worker())


def test_a_run_that_was_stopped_ends_as_one_that_was_not(prepared: Path, tmp_path: Path) -> None:
    def stop(metrics: dict[str, Any]) -> None:
        if metrics["epoch"] == 1:
            raise KeyboardInterrupt

    whole = avsc_config(prepared, tmp_path / "whole")
    stopped = replace(whole, out=str(tmp_path / "stopped"))
    history = train(whole, Worker())
    assert history[1]["loss"] < history[0]["loss"]
    assert {"sound", "class", "mask_bce", "mask_dice", "bce", "dice"} == set(history[0]["parts"])
    with pytest.raises(KeyboardInterrupt):
        train(stopped, Worker(after_epoch=stop))
    resumed = train(stopped, Worker())
    assert resumed[1]["loss"] == history[1]["loss"]
    ends = [Run(config.out).epoch_uri(2) for config in (whole, stopped)]
    for read in (lambda uri: load_checkpoint(uri).weights, _teacher):
        first, second = (read(uri) for uri in ends)
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def _teacher(uri: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_trainer_state(uri)["segmenter"]
    assert len(state) > 1
    return state


def test_a_checkpoint_predicts_without_the_teacher(prepared: Path, tmp_path: Path) -> None:
    config = replace(avsc_config(prepared, tmp_path / "run"), seed=6)
    train(replace(config, train=replace(config.train, epochs=1)), Worker())
    found = load_checkpoint(config.out)
    assert found.model.category_names == sorted(KINDS)
    assert not any("teacher" in name for name in found.weights)
    predictor = Predictor(found)
    side, rng = found.clip.image_size_px, np.random.default_rng(0)
    logits = predictor.logits(
        rng.integers(0, 255, (2, 5, side, side, 3), dtype=np.uint8),
        rng.normal(size=(2, 5, 1, 96, 64)).astype(np.float32),
        np.ones((2, 5), np.bool_),
    )
    assert logits.shape == (2, 5, 1, side, side)
    card = Path(found.uri, "model_card.md").read_text()
    assert f"| categories | {len(KINDS)}: {', '.join(sorted(KINDS)[:4])}, ... |" in card
    assert "Its published results belong to the authors' code alone." in card


def test_the_backbone_learns_at_its_own_rate(prepared: Path, tmp_path: Path) -> None:
    config = avsc_config(prepared, tmp_path / "run")
    system = build_system(config.model)
    loop = replace(config.train, backbone_learning_rate_factor=0.1)
    groups = build_optimizer(system, loop).param_groups
    assert [group["factor"] for group in groups] == [1.0, 0.1, 1.0]
    backbone = set(system.segmenter.backbone.parameters())
    assert set(groups[1]["params"]) == backbone
    assert not backbone & {p for group in groups[::2] for p in group["params"]}
    assert len(build_optimizer(system, config.train).param_groups) == 2
