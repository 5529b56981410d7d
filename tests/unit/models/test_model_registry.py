"""Unknown names say what is known; the configuration is checked at once."""

from __future__ import annotations

from typing import Any

import pytest
from small_configs import model_config

from avs.errors import ConfigError
from avs.models import AUDIO_NETWORKS, MODELS, build_audio_network, build_model
from avs.models.registry import model_options


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "tpavy"}, ["model.name='tpavy'", *MODELS]),
        ({"audio_network": "vgg"}, ["model.audio_network='vgg'", *AUDIO_NETWORKS]),
        ({"options": {"fusion_widht": 1}}, ["fusion_widht", "fusion_width", "temporal_group"]),
        ({"options": {"fusion_width": 3}}, ["fusion_width=3"]),
        ({"num_classes": 0}, ["num_classes=0"]),
        ({"num_classes": 1.5}, ["num_classes=1.5", "whole number"]),
        ({"num_classes": True}, ["num_classes=True"]),
        ({"options": {"fusion_stages": [1, 1]}}, ["fusion_stages=[1, 1]", "each stage once"]),
        ({"audio_weights": ""}, ["audio_weights is empty"]),
        (
            {"name": "c3n"},
            ["model.name=c3n", "model.audio_network=small", "vggish_classified, panns, beats, yam"],
        ),
        ({"name": "c3n", "audio_network": "vggish"}, ["model.audio_network=vggish does not give"]),
    ],
)
def test_a_wrong_value_is_named_with_the_known_ones(
    changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        model_config(**changes)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_says_what_is_published_and_what_is_ours(name: str) -> None:
    origin = MODELS[name].origin
    assert all((origin.published, origin.reconstructed, origin.where))


def test_builders_refuse_unknown_names_themselves() -> None:
    with pytest.raises(ConfigError, match=r"known: .*tpavi"):
        build_model("none", backbone="resnet10t", num_classes=1)
    with pytest.raises(ConfigError, match=r"num_classes=1\.5: a whole number"):
        build_model("tpavi", backbone="resnet10t", num_classes=1.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"known: small, .*vggish"):
        build_audio_network("none", weights="random")


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        ("resnet10tt", {}, "not a timm model; known ones include .*resnet10t"),
        ("vit_tiny_patch16_224", {}, r"vit_tiny_patch16_224.*\[4, 8, 16, 32\] are needed"),
        ("vgg11", {"drop_path": 0.1}, "model.backbone='vgg11' does not take .*drop_path"),
    ],
)
def test_backbones_that_cannot_be_used(
    backbone: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model("tpavi", backbone=backbone, num_classes=1, **options)


def test_drop_path_reaches_the_backbone() -> None:
    names = [
        {type(module).__name__ for module in build(drop_path).modules()} for drop_path in (0.0, 0.1)
    ]
    assert "DropPath" not in names[0]
    assert "DropPath" in names[1]


def build(drop_path: float) -> Any:
    return build_model(
        "tpavi", backbone="pvt_v2_b0", num_classes=1, fusion_width=8, drop_path=drop_path
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("avsc", {"silent_object_aware": "maybe"}, r"silent_object_aware=maybe is a str"),
        ("avsc", {"categories": ["dog"]}, r"categories=\['dog'\] is a list"),
        ("avsc", {"aggregate": "max"}, r"model\.options\.aggregate='max': one of sum"),
        ("ccformer", {"num_eim_levels": True}, r"num_eim_levels=True is a bool"),
        ("ccformer", {"num_queries": 1.5}, r"num_queries=1.5 is a float; wanted: a whole"),
        ("ccformer", {"bcl_weight": float("inf")}, r"bcl_weight=inf .*a finite number"),
        ("ccformer", {"bcl_weight": None}, r"bcl_weight=None is a NoneType"),
        ("tpavi", {"fusion_stages": 3}, r"fusion_stages=3 is a int; wanted: a list"),
    ],
)
def test_a_switch_that_is_no_switch_is_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        model_options(name, options)
