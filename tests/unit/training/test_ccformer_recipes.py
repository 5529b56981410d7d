"""CCFormer's configurations: values of the reconstruction, defaults of the options."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from avs.config import parse
from avs.models.ccformer import CcformerOptions
from avs.training.config import TrainConfig

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
RECIPES = [f"ccformer_{data}_{net}" for data in ("s4", "ms3", "avss") for net in ("r50", "pvt")]


def composed(*overrides: str) -> TrainConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("train", overrides=list(overrides))
    OmegaConf.set_struct(config, False)
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, "dummy")
    return parse(config, TrainConfig)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_the_values_of_the_reconstruction(name: str) -> None:
    _, data, net = name.split("_")
    config = composed(f"experiment={name}")
    loop, model = config.train, config.model
    assert (model.name, model.audio_network) == ("ccformer", "vggish")
    assert model.backbone.split(".")[0] == {"r50": "resnet50", "pvt": "pvt_v2_b5"}[net]
    assert model.options["drop_path"] == {"r50": 0.0, "pvt": 0.1}[net]
    assert (loop.learning_rate, loop.weight_decay, loop.image_size_px) == (2e-5, 0.0, 224)
    assert (loop.epochs, loop.batch_size) == ({"s4": 30, "ms3": 120, "avss": 30}[data], 4)
    assert (config.loss.bce_weight, config.loss.mapping_weight) == (1.0, 0.0)
    assert config.loss.dice_weight == (0.0 if data == "avss" else 1.0)
    text = (CONFIGS / "experiment" / f"{name}.yaml").read_text()
    assert "a reconstruction" in text
    assert "no published J and F" in text


def test_the_full_size_is_the_default_of_the_options() -> None:
    options = composed("model=ccformer").model.options
    assert options == {key: asdict(CcformerOptions(drop_path=0.1))[key] for key in options}


def test_the_small_one_keeps_every_part() -> None:
    options = CcformerOptions(**composed("model=ccformer_tiny").model.options)
    assert options.num_eim_levels == options.num_levels
    assert options.use_frame_level
    assert options.use_video_level
    assert options.bcl_weight == 0.1
    assert options.num_decoder_layers > 1
