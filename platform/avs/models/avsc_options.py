"""What can be chosen about AVSC, and which names of categories fit it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from avs.errors import ConfigError
from avs.models.avsc_correlation import Aggregate
from avs.models.object_network import ObjectNetworkOptions

__all__ = ["SOUNDING_OBJECT", "AvscOptions", "check_names", "default_names"]

SOUNDING_OBJECT = "sounding object"


@dataclass(kw_only=True, slots=True)
class AvscOptions(ObjectNetworkOptions):
    """Options of AVSC, beside those of its object network.

    audio_dim, sound_width: widths of the audio embedding and of the hidden layer behind it.
    categories: False = what sounds has one class, whatever the data names.
    aggregate: "sum" or "noisy_or".
    silent_object_aware: False = the plain set loss. teacher_decay: of its moving average.
    loss_points: points that mask losses and matching look at. class_weight: of naming the objects
    in the set loss, beside 5 for each mask loss. sound_weight: see
    :class:`avs.models.avsc_objective.ObjectiveOptions`.
    drop_path, backbone_options: stochastic depth of the backbone; further keywords for timm.
    """

    audio_dim: int = 128
    sound_width: int = 256
    categories: bool = True
    aggregate: str = "sum"
    silent_object_aware: bool = True
    teacher_decay: float = 0.999
    loss_points: int = 12_544
    class_weight: float = 2.0
    sound_weight: float = 1.0
    drop_path: float = 0.0
    backbone_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ObjectNetworkOptions.__post_init__(self)
        for key in ("audio_dim", "sound_width", "loss_points"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)}: at least 1")
        known = [kind.value for kind in Aggregate]
        if self.aggregate not in known:
            raise ConfigError(f"aggregate={self.aggregate!r}: one of {', '.join(known)}")
        for key in ("teacher_decay", "drop_path"):
            if not 0.0 <= getattr(self, key) < 1.0:
                raise ConfigError(f"{key}={getattr(self, key)}: between 0 and 1")
        for key in ("class_weight", "sound_weight"):
            if not getattr(self, key) >= 0.0:
                raise ConfigError(f"{key}={getattr(self, key)}: 0 or more")


def default_names(num_classes: int) -> tuple[str, ...]:
    """The categories where the data names none."""
    if num_classes == 1:
        return (SOUNDING_OBJECT,)
    return tuple(f"class {k}" for k in range(1, num_classes))


def check_names(names: Sequence[str], num_classes: int, options: AvscOptions) -> None:
    """Raise ConfigError where categories and semantic classes do not fit together."""
    if num_classes == 1:
        return
    if not options.categories:
        raise ConfigError("categories=false is for binary data; semantic classes are categories")
    if len(names) != num_classes - 1:
        raise ConfigError(
            f"model.category_names holds {len(names)} names, model.num_classes={num_classes} has "
            f"{num_classes - 1} classes beside the background: leave category_names out"
        )
