"""The sweep's configuration: each model is searched in a space of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from avs.config import dump, parse
from avs.errors import ConfigError
from avs.models import MODELS
from avs.tuning import TuneConfig
from avs.tuning.config import SearchConfig
from avs.tuning.sampling import random_values
from avs.tuning.space import Dimension

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
CHOICES = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
RATE = {"key": "train.learning_rate", "loguniform": [1e-4, 1e-2]}


def composed(*overrides: str) -> TuneConfig:
    given = ["data.prepared=p", "out=o", *overrides]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("tune", overrides=given)
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, "weights.pt")
    return parse(config, TuneConfig)


@pytest.mark.parametrize("search", ["small", "full"])
@pytest.mark.parametrize("choice", CHOICES)
def test_a_model_is_searched_in_its_own_space(choice: str, search: str) -> None:
    config = composed(f"model={choice}", f"search={search}")  # refuses one that does not fit
    spaces = config.search.spaces
    assert config.space() == spaces.get(config.model.name, spaces["other"])
    assert "train.learning_rate" in [dimension.key for dimension in config.space()]


@pytest.mark.parametrize("search", ["small", "full"])
@pytest.mark.parametrize("choice", CHOICES)
def test_random_trials_of_a_shipped_space_can_be_built(choice: str, search: str) -> None:
    config = composed(f"model={choice}", f"search={search}")
    space = config.full_space()
    drawn = [random_values(space, seed=0, number=number) for number in range(60)]
    for values in drawn:
        config.with_values(values, out="o")
    tried = {key for values in drawn for key in values}
    assert tried == {dimension.key for dimension in config.space()}


def test_where_pixels_have_classes_there_is_no_dice_to_search() -> None:
    config = composed("loss.dice_weight=0").for_data(semantic=True)
    drawn = [random_values(config.full_space(), seed=0, number=number) for number in range(20)]
    assert not any("loss.dice_weight" in values for values in drawn)


def test_no_space_is_of_a_model_that_does_not_exist() -> None:
    assert set(composed().search.spaces) - set(MODELS) == {"other"}


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("tpavi", "fusion_stages fusion_width dice_weight"),
        ("c3n", "fusion_width alpha dice_weight"),
        ("avsc", "fusion_width num_queries encoder_layers decoder_layers sound_weight"),
        ("ccformer", "fusion_width num_queries num_decoder_layers temperature num_eim_levels"),
        ("ccformer", "aux_weight bcl_weight use_frame_level use_video_level"),
        ("gated", "fusion_width dice_weight"),
    ],
)
def test_the_fusion_of_each_model_is_searched(model: str, wanted: str) -> None:
    for search in ("small", "full"):
        space = composed(f"search={search}").search.spaces[model]
        names = {dimension.key.rpartition(".")[2] for dimension in space}
        assert set(wanted.split()) - names == set()


def test_a_space_given_by_hand_goes_before_the_one_of_the_model() -> None:
    config = composed("model=avsc_tiny", "search.space=[{key:seed,choice:[1,2]}]")
    assert config.space() == [Dimension(key="seed", choice=[1, 2])]


def test_a_model_without_a_space_gets_the_one_of_the_others() -> None:
    config = composed("model=ccformer_tiny", "~search.spaces.ccformer")
    assert [dimension.key for dimension in config.space()] == ["train.learning_rate"]


def test_a_model_without_any_space_is_told_what_to_give() -> None:
    search = SearchConfig(
        num_trials=1, grace_epochs=1, reduction_factor=2, spaces={"tpavi": [Dimension(**RATE)]}
    )
    with pytest.raises(ConfigError) as caught:
        search.space_of("avsc")
    words = ("model.name=avsc", "there: tpavi", "search.space,", "search.spaces.avsc")
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        (
            "{key:model.options.fusion_stages,choice:[[4]]}",
            r"model\.options\.fusion_stages=\[4\] is not known",
        ),
        (
            "{key:model.options.fusion_width,choice:[32,30]}",
            r"model\.options\.fusion_width=30: a multiple",
        ),
        ("{key:train.epochs,uniform:[0.5,1.5]}", "train.epochs=0.5 is a float"),
        ("{key:train.lr,choice:[1]}", "space train.lr: lr is not known"),
    ],
)
def test_a_space_that_does_not_fit_is_refused_before_any_trial(space: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        composed("model=avsc_tiny", f"search.space=[{space}]")


def test_an_empty_space_of_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"search\.spaces\.avsc=\[\] has nothing to search"):
        composed("search.spaces.avsc=[]")


def test_a_trial_is_one_worker() -> None:
    config: Any = composed("scale.num_workers=3")
    assert config.trial_config().scale.num_workers == 1
    assert config.train_config().scale.num_workers == 3


def test_a_feed_that_trials_do_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.feed=ray: a sweep .* data\.feed=threads"):
        composed("+data.feed=ray")


def test_the_best_trial_is_trained_with_the_logs_of_a_training() -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        train = compose("train", overrides=["data.prepared=p", "out=o"])
    assert dump(composed("model=tiny").logging) == train.logging
    with pytest.raises(ConfigError, match=r"logging\.mlflow=http://there: the trials"):
        composed("model=tiny", "logging.mlflow=http://there")
