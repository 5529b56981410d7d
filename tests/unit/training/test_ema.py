"""Averaged weights: what is averaged, validated and saved, and that a run goes on with both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_configs import model_config, train_config

from avs.models import AvsSystem
from avs.training import loop
from avs.training.checkpoint import load_checkpoint, load_trainer_state
from avs.training.config import TrainConfig
from avs.training.ema import WeightAverage
from avs.training.loop import train
from avs.training.run import Run
from avs.training.state import TrainingState, Worker


def ema_config(prepared: Path, out: Path, **changes: Any) -> TrainConfig:
    return train_config(prepared, out, ema_decay=0.9, **changes)


def test_an_average_follows_parameters_and_statistics_by_its_decay(
    prepared: Path, tmp_path: Path
) -> None:
    system = TrainingState(train_config(prepared, tmp_path), Worker()).system
    system.segmenter.backbone.requires_grad_(False)
    average = WeightAverage(system, decay=0.5)
    names = {"segmenter.backbone.net.bn1.running_mean", "segmenter.backbone.net.bn1.weight"}
    assert average.values.keys() & names == {"segmenter.backbone.net.bn1.running_mean"}
    start = {name: value.clone() for name, value in average.values.items()}
    with torch.no_grad():
        for value in average.raw(system).values():
            value += 1
    average.update(system, num_steps=0)  # the first steps count for more
    average.update(system, num_steps=1000)
    for name, value in average.values.items():
        moved = 1.0 - 0.5 * 0.1 if value.is_floating_point() else 1
        torch.testing.assert_close(value, start[name] + moved, msg=name)


def test_a_frozen_audio_network_is_not_averaged(prepared: Path, tmp_path: Path) -> None:
    config = replace(ema_config(prepared, tmp_path), model=model_config(audio_network="yamnet"))
    average = TrainingState(config, Worker()).average
    assert average is not None
    assert not any(name.startswith("audio.") for name in average.values)


def test_the_average_is_validated_and_saved_and_the_weights_kept_to_go_on(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validated: dict[str, torch.Tensor] = {}
    validate = loop.validate

    def note(system: AvsSystem, *args: Any, **options: Any) -> Any:
        validated.update({k: v.clone() for k, v in system.state_dict().items()})
        return validate(system, *args, **options)

    monkeypatch.setattr(loop, "validate", note)
    config, plain = (
        ema_config(prepared, tmp_path / "ema", epochs=1),
        train_config(prepared, tmp_path / "plain", epochs=1),
    )
    history = train(config, Worker())
    saved = load_checkpoint(Run(config.out).epoch_uri(1)).weights
    assert all(torch.equal(validated[name], value) for name, value in saved.items())
    raw = load_trainer_state(Run(config.out).epoch_uri(1))["weights"]
    assert train(plain, Worker())[0]["loss"] == history[0]["loss"]
    trained = load_checkpoint(plain.out).weights
    assert all(torch.equal(raw[name], trained[name]) for name in raw)
    apart = [name for name in raw if not torch.equal(saved[name], raw[name])]
    assert any(name.endswith("running_mean") for name in apart)
    assert any(name.endswith("conv1.weight") for name in apart)
    card = Path(Run(config.out).epoch_uri(1), "model_card.md").read_text()
    assert "these weights are a moving average, decay 0.9" in card


def test_a_run_that_was_stopped_ends_as_one_that_was_not(prepared: Path, tmp_path: Path) -> None:
    def stop(metrics: dict[str, Any]) -> None:
        if metrics["epoch"] == 1:
            raise KeyboardInterrupt

    whole = ema_config(prepared, tmp_path / "whole", accumulate_steps=2)
    stopped = replace(whole, out=str(tmp_path / "stopped"))
    history = train(whole, Worker())
    with pytest.raises(KeyboardInterrupt):
        train(stopped, Worker(after_epoch=stop))
    resumed = train(stopped, Worker())
    assert [m["loss"] for m in resumed] == [m["loss"] for m in history]
    assert resumed[1]["val_f"] == history[1]["val_f"]
    ends = [Run(config.out).epoch_uri(2) for config in (whole, stopped)]
    first, second = (load_checkpoint(uri).weights for uri in ends)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    first, second = (load_trainer_state(uri)["weights"] for uri in ends)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
