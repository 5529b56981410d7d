"""Which model, which weights: the ``model`` section of every configuration.

Options stay a mapping here because each model has its own; they are checked against the model's
options class at once, so a misspelt key fails before any data is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from avs.errors import ConfigError
from avs.models.audio import AUDIO_NETWORKS
from avs.models.registry import model_options

__all__ = ["ModelConfig"]

# What they name is in the state dict.
_FILE_OPTIONS = ("similarity",)


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """One audio network and one segmenter.

    backbone_weights: "random", "timm" or a path. audio_weights: "random" or a path
    (several joined by commas where a network has several files).
    num_classes: 1 = binary, else classes with background.
    """

    name: str
    backbone: str
    backbone_weights: str
    audio_network: str
    audio_weights: str
    num_classes: int
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        model_options(self.name, self.options)
        if self.audio_network not in AUDIO_NETWORKS:
            raise ConfigError(
                f"model.audio_network={self.audio_network!r} is unknown; "
                f"known: {', '.join(AUDIO_NETWORKS)}"
            )
        if self.num_classes < 1:
            raise ConfigError(f"model.num_classes={self.num_classes}: at least 1")
        for key in ("backbone", "backbone_weights", "audio_weights"):
            if not getattr(self, key):
                raise ConfigError(f"model.{key} is empty: give a name, a path or 'random'")

    def without_files(self) -> ModelConfig:
        """The same networks for a state dict that holds everything: no file is asked for."""
        options = {key: value for key, value in self.options.items() if key not in _FILE_OPTIONS}
        return replace(self, backbone_weights="random", audio_weights="random", options=options)
