"""One root configuration for both stages of the prepare job: what belongs to which."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from avs.errors import ConfigError
from avs.prepare import PrepareConfig
from avs.prepare.config import FeaturesConfig
from avs.prepare.stages import parse_stage

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
NETWORK = ["model.audio_network=vggish", "model.audio_weights=w.pth"]
FEATURES = ["stage=features", "prepared=/data", *NETWORK]
CLIPS = ["data.root=/in", "out=/out"]


def parsed(*overrides: str) -> PrepareConfig | FeaturesConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        return parse_stage(compose("prepare", overrides=list(overrides)))


def test_features_need_neither_data_nor_out() -> None:
    config = parsed(*FEATURES, "scale=gpu", "dry_run=true")
    assert isinstance(config, FeaturesConfig)
    assert config.prepared == "/data"
    assert (config.model.audio_network, config.model.audio_weights) == ("vggish", "w.pth")
    assert config.scale.device == "cuda"
    assert config.dry_run


def test_clips_are_the_stage_without_a_word() -> None:
    config = parsed(*CLIPS, "data.image_size_px=32")
    assert isinstance(config, PrepareConfig)
    assert (config.out, config.data.image_size_px) == ("/out", 32)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage=feature"], r"stage=feature is not known\. Known: clips, features\. Did you mean"),
        (FEATURES[:2], r"model\.audio_network is not set: give model\.audio_network=VALUE"),
        (FEATURES[:3], r"model\.audio_weights is not set: give"),
        (["stage=features", *NETWORK], "prepared is not set: give prepared=VALUE"),
        ([*FEATURES, "out=/x"], r"out=/x belongs to stage=clips.*leave out out"),
        ([*FEATURES, "data.root=/x"], r"data\.root=/x belongs to stage=clips.*takes prepared"),
        ([*FEATURES, "retry_rejects=true"], "retry_rejects=True belongs to stage=clips"),
        (CLIPS[:1], "out is not set: give out=VALUE"),
        ([*CLIPS, "prepared=/data"], "prepared=/data belongs to stage=features"),
        ([*CLIPS, NETWORK[0]], r"model\.audio_network=vggish belongs to stage=features"),
    ],
)
def test_a_key_that_lacks_or_is_of_the_other_stage_is_told(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parsed(*overrides)
