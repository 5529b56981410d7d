"""Which model, which weights: the ``model`` section of every configuration.

Options stay a mapping here because each model has its own; they are checked against the model's
options class at once, so a misspelt key fails before any data is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from avs.errors import ConfigError
from avs.models.audio import AUDIO_NETWORKS
from avs.models.registry import MODELS, check_num_classes, model_options
from avs.models.weights import HUB_PREFIX

__all__ = ["ModelConfig"]

# What they name is in the state dict.
_FILE_OPTIONS = ("similarity",)
_NO_FILES = ("random", "timm")


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """One audio network and one segmenter.

    backbone_weights: "random", "timm" (timm's own download), or a local path, s3://BUCKET/KEY or
    hf-hub:OWNER/REPO/FILE. audio_weights: "random" or one of these three (several joined by commas
    where a network has several files).
    audio_norm: normalise each embedding of the sound before the model gets it, which the published
    models do not; without it a network whose embeddings have another size than VGGish's is hardly
    heard by some.
    audio_dropout: share of the values of each embedding that training leaves out (ours, 0 as
    published): where few recordings are trained on, they are otherwise known by heart.
    num_classes: 1 = binary, else classes with background. category_names: of the objects that
    sound, for models that name them; training takes them from the prepared data where empty.
    """

    name: str
    backbone: str
    backbone_weights: str
    audio_network: str
    audio_weights: str
    num_classes: int
    audio_norm: bool = False
    audio_dropout: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    category_names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        model_options(self.name, self.options)
        if self.audio_network not in AUDIO_NETWORKS:
            raise ConfigError(
                f"model.audio_network={self.audio_network!r} is unknown; "
                f"known: {', '.join(AUDIO_NETWORKS)}"
            )
        self.check_classes()
        check_num_classes(self.num_classes)
        if not 0.0 <= self.audio_dropout < 1.0:
            raise ConfigError(f"model.audio_dropout={self.audio_dropout}: between 0 and 1")
        for key in ("backbone", "backbone_weights", "audio_weights"):
            if not getattr(self, key):
                raise ConfigError(f"model.{key} is empty: give a name, a path or 'random'")

    def check_classes(self) -> None:
        """Raise ConfigError where the model needs class scores that the audio network lacks."""
        if MODELS[self.name].hears_classes and not AUDIO_NETWORKS[self.audio_network].gives_classes:
            able = [name for name, entry in AUDIO_NETWORKS.items() if entry.gives_classes]
            raise ConfigError(
                f"model.name={self.name} needs the sound's class scores, which "
                f"model.audio_network={self.audio_network} does not give: take one of "
                f"{', '.join(able)}"
            )

    def map_files(self, change: Callable[[str], str]) -> ModelConfig:
        """The same with ``change`` applied to every path of a file; other names stay."""

        def changed(spec: str) -> str:
            return spec if spec in _NO_FILES or spec.startswith(HUB_PREFIX) else change(spec)

        options = {
            key: changed(value) if key in _FILE_OPTIONS and isinstance(value, str) else value
            for key, value in self.options.items()
        }
        return replace(
            self,
            backbone_weights=changed(self.backbone_weights),
            audio_weights=",".join(changed(spec) for spec in self.audio_weights.split(",")),
            options=options,
        )

    def without_files(self) -> ModelConfig:
        """The same networks for a state dict that holds everything: no file is asked for."""
        options = {key: value for key, value in self.options.items() if key not in _FILE_OPTIONS}
        return replace(self, backbone_weights="random", audio_weights="random", options=options)
