"""The sizes and the objective that a model is published with here: its YAML below configs/model.

The cost of a model is that of its published sizes, and those are values, which stay in one place.
A new model is found through the MODELS table, so its YAML is named as its line there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from avs.config import build
from avs.errors import ConfigError
from avs.losses import LossConfig
from avs.models import AUDIO_NETWORKS, ModelConfig
from avs.models.registry import option_names

__all__ = ["Recipe", "read_recipe"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """options: of the model, its audio_dim included. audio_dim: width of the sound's embedding.
    loss: fields of LossConfig, plain; what a YAML leaves out has LossConfig's default."""

    options: Mapping[str, Any]
    audio_dim: int
    loss: Mapping[str, Any]


def read_recipe(name: str, *, configs: Path) -> Recipe:
    """The recipe of a line of MODELS, from ``configs``/model/``name``.yaml.

    Raises ConfigError where there is no such file or it says what cannot be.
    """
    path = configs / "model" / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(
            f"{path} is missing: it holds the sizes that model.name={name} is measured with; "
            "write it, or leave the model out with models.cost_models"
        )
    plain: Any = OmegaConf.to_container(OmegaConf.load(path))
    # what else it asks for, as files of weights, is not needed here
    section = plain["model"] | {"audio_weights": "random", "backbone_weights": "random"}
    model: ModelConfig = build(ModelConfig, section, path="model")
    loss = plain.get("loss", {})
    build(LossConfig, loss, path="loss")
    audio_dim = AUDIO_NETWORKS[model.audio_network].build.embedding_dim
    options = dict(model.options)
    if "audio_dim" in option_names(name):
        options["audio_dim"] = audio_dim
    return Recipe(options=options, audio_dim=audio_dim, loss=loss)
