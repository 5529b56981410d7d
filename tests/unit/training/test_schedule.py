"""The learning rate of each step: how it falls, how it rises at first, and what YAML says of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_configs import train_config

from avs.config import build
from avs.errors import ConfigError
from avs.training.config import LoopConfig, MixtureConfig, Precision, Schedule
from avs.training.schedule import learning_rate

TRAIN_YAML = Path(__file__).parents[3] / "configs/train.yaml"


def rates(tmp_path: Path, count: int = 8, **changes: Any) -> list[float]:
    loop = train_config(tmp_path, tmp_path, epochs=2, learning_rate=0.1, **changes).train
    return [learning_rate(loop, step, steps_per_epoch=4) for step in range(count)]


def test_poly_falls_with_a_power_of_what_is_left(tmp_path: Path) -> None:
    wanted = [0.1 * (1 - step / 8) ** 0.9 for step in range(8)]
    assert rates(tmp_path, schedule=Schedule.POLY) == pytest.approx(wanted)
    straight = rates(tmp_path, schedule=Schedule.POLY, poly_power=1.0)
    assert straight == pytest.approx([0.1 * left / 8 for left in range(8, 0, -1)])


@pytest.mark.parametrize("schedule", list(Schedule))
def test_a_warm_up_multiplies_the_first_steps_of_every_schedule(
    schedule: Schedule, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"schedule": schedule}
    if schedule is Schedule.LINEAR:
        changes |= {"final_learning_rate": 0.01, "schedule_epochs": 2}
    plain = rates(tmp_path, **changes)
    warm = rates(tmp_path, warmup_steps=4, warmup_start_factor=0.2, **changes)
    factors = [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0]
    assert warm == pytest.approx([f * rate for f, rate in zip(factors, plain, strict=True)])
    assert warm[4:] == plain[4:]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("accumulate_steps", 0),
        ("max_gradient_norm", 0.0),
        ("poly_power", 0.0),
        ("warmup_steps", -1),
        ("warmup_start_factor", 1.5),
        ("crop_scale", (0.5, 1.5)),
        ("crop_scale", (0.8, 0.5)),
        ("crop_scale", (0.5,)),
        ("crop_ratio", (0.0, 1.0)),
        ("ema_decay", 1.0),
        ("init_from", ""),
    ],
)
def test_a_value_that_means_nothing_is_refused_by_its_key(
    key: str, value: object, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"train\.{key}"):
        train_config(tmp_path, tmp_path, **{key: value})


def test_half_precision_of_gpus_is_refused_on_a_cpu_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.precision=fp16 .*scale=gpu.*bf16"):
        train_config(tmp_path, tmp_path, precision=Precision.FP16)


def test_the_defaults_of_the_yaml_are_those_of_the_code() -> None:
    plain = yaml.safe_load(TRAIN_YAML.read_text())
    loop = build(LoopConfig, plain["train"], path="train")
    for field in dataclasses.fields(LoopConfig):
        if field.default is not dataclasses.MISSING:
            assert getattr(loop, field.name) == field.default, field.name
    assert plain["data"].keys() == {field.name for field in dataclasses.fields(MixtureConfig)}
