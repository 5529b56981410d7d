"""Models by name.

A literal table: a new model is one module (an options dataclass, a build function, where it comes
from) and one line here; the parametrised tests find it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

from torch import nn

from avs.config import build
from avs.errors import ConfigError
from avs.models.avsc import AVSC_ORIGIN, build_avsc
from avs.models.avsc_options import AvscOptions
from avs.models.c3n import C3N_ORIGIN, C3nOptions, build_c3n
from avs.models.ccformer import CCFORMER_ORIGIN, CcformerOptions, build_ccformer
from avs.models.gated import GATED_ORIGIN, GatedOptions, build_gated
from avs.models.origin import Origin
from avs.models.tpavi import TPAVI_ORIGIN, TpaviOptions, build_tpavi

__all__ = [
    "MODELS",
    "ModelEntry",
    "NeedsBatch",
    "build_model",
    "check_num_classes",
    "model_options",
]

_OPTIONS = "model.options"


@runtime_checkable
class NeedsBatch(Protocol):
    """Options of a model that cannot be trained with any number of clips a step."""

    def check_batch(self, num_clips: int) -> None:
        """Raise ConfigError where a step of ``num_clips`` clips on all workers is too small."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelEntry:
    """build(backbone=, backbone_weights=, num_classes=, options=) and the class of ``options``.

    origin: what is published of it and what is ours.
    hears_classes: it needs the AudioSet class scores that some audio networks give.
    names_categories: ``build`` also takes category_names=, a tuple of names, empty if unknown.
    """

    build: Callable[..., nn.Module]
    options: type[Any]
    origin: Origin
    hears_classes: bool = False
    names_categories: bool = False


MODELS: dict[str, ModelEntry] = {
    "tpavi": ModelEntry(build=build_tpavi, options=TpaviOptions, origin=TPAVI_ORIGIN),
    "c3n": ModelEntry(build=build_c3n, options=C3nOptions, origin=C3N_ORIGIN, hears_classes=True),
    "avsc": ModelEntry(
        build=build_avsc, options=AvscOptions, origin=AVSC_ORIGIN, names_categories=True
    ),
    "ccformer": ModelEntry(build=build_ccformer, options=CcformerOptions, origin=CCFORMER_ORIGIN),
    "gated": ModelEntry(build=build_gated, options=GatedOptions, origin=GATED_ORIGIN),
}


def build_model(
    name: str,
    *,
    backbone: str,
    num_classes: int,
    backbone_weights: str = "random",
    category_names: Sequence[str] = (),
    **options: Any,
) -> nn.Module:
    """Build a segmenter (``ModelInput -> ModelOutput``).

    backbone: any timm name with strides 4, 8, 16, 32. num_classes: 1 (binary) or the number of
    classes with background. backbone_weights: "random", "timm" or a local path, s3://BUCKET/KEY
    or hf-hub:OWNER/REPO/FILE.
    category_names: of the objects that sound, for models that name them; others leave them.
    options: the fields of the model's options class (``MODELS[name].options``).
    Raises ConfigError for an unknown name or option, WeightsError for weights.
    """
    parsed = model_options(name, options)
    check_num_classes(num_classes)
    named = {"category_names": tuple(category_names)} if MODELS[name].names_categories else {}
    return MODELS[name].build(
        backbone=backbone,
        backbone_weights=backbone_weights,
        num_classes=num_classes,
        options=parsed,
        **named,
    )


def model_options(name: str, options: dict[str, Any]) -> Any:
    """Check keys, types and values of ``options`` for the model ``name``; as its dataclass."""
    if name not in MODELS:
        raise ConfigError(f"model.name={name!r} is unknown; known: {', '.join(MODELS)}")
    try:
        return build(MODELS[name].options, options, path=_OPTIONS)
    except ConfigError as error:  # what a dataclass checks of its values names no path
        told = str(error)
        raise ConfigError(told if told.startswith(_OPTIONS) else f"{_OPTIONS}.{told}") from None


def check_num_classes(num_classes: object) -> None:
    """Raise ConfigError unless it is a whole number of at least 1."""
    whole = isinstance(num_classes, int) and not isinstance(num_classes, bool)
    if not whole or num_classes < 1:  # type: ignore[operator]  # an int by now
        raise ConfigError(f"model.num_classes={num_classes!r}: a whole number of at least 1")


def option_names(name: str) -> tuple[str, ...]:
    """Names of the options that a known model takes."""
    return tuple(option.name for option in fields(MODELS[name].options))
