"""Import weights published by the authors: TPAVI (AVSBench), C3N and the audio networks.

Names are translated by one literal table (:mod:`avs.models.official_names`) and matched strictly
both ways, so a checkpoint of another variant is refused, named for what it seems to be, instead of
half loaded; so is one that names a tensor twice, or as we do. What the official files hold and our
models lack on purpose is listed, nothing else is dropped: the duplicate ResNet branch, which is
never run, TPAVI's PVT classifier head, index buffers. An audio network knows its published names
itself (``own_names``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from avs.errors import WeightsError
from avs.models.c3n import C3nSegmenter
from avs.models.frozen import FrozenAudioNetwork
from avs.models.official_names import name_here, official_name
from avs.models.swin import is_index_buffer
from avs.models.tpavi import TpaviSegmenter
from avs.models.types import AudioNetwork
from avs.models.weights import name_some, not_finite, rename_all, tensors_of

__all__ = ["import_official"]

DROPPED = (
    r"^resnet\.layer[34]_2\.",  # duplicate branch, never run
    r"^(resnet\.fc|encoder_backbone\.head)\.",  # ImageNet classifier
)
OPTIONAL = ("num_batches_tracked", "similarity")  # C3N's matrix was never published
# What tells the official variants apart, for messages.
HEAD = "output_conv.4.weight"
OWN_PREFIXES = ("segmenter.", "decoder.head.")
TELLING_NAMES = (
    ("resnet.conv1.weight", "ResNet-50"),
    ("encoder_backbone.patch_embed1.proj.weight", "PVT-v2"),
    ("encoder_backbone.patch_embed.proj.weight", "Swin"),
)


def import_official(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load an official state dict into one of our models, in place.

    model: TPAVI with a pvt_v2_b5 or resnet50 backbone, C3N with a pvt_v2_b5 or Swin-B one, or an
    audio network.
    state_dict: official names, with or without a "module." prefix, or the checkpoint around them
    (BEATs needs it: its label_dict tells the order of the classes); index buffers may be absent.
    Raises WeightsError naming, as the authors do, what could not be placed, is missing or there
    twice, whose shape differs, and what holds NaN or infinite values.
    """
    if not isinstance(model, TpaviSegmenter | C3nSegmenter | AudioNetwork):
        raise WeightsError(f"no official names are known for {type(model).__name__}")
    if not isinstance(state_dict, Mapping):
        raise WeightsError(
            f"the checkpoint of {type(model).__name__} is a {type(state_dict).__name__}: give a "
            "dict of names and tensors, or what torch.load made of the official file"
        )
    if isinstance(model, FrozenAudioNetwork):
        given = model.own_names(state_dict)
    else:
        given = tensors_of(state_dict)
    placed = _placed(model, given)
    model.load_state_dict(placed, strict=False)


def _placed(model: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of ``model``. Raises WeightsError unless they fit exactly."""
    official, here = _translations(model)
    kept = {name: value for name, value in given.items() if not _dropped(name, model)}
    names = rename_all({name: name for name in kept}, here)  # by ours
    wanted = model.state_dict()
    ours_already = [] if isinstance(model, AudioNetwork) else [n for n in kept if here(n) == n]
    unplaced = [names[n] for n in names if n not in wanted and names[n] not in ours_already]
    missing = [n for n in wanted if n not in names and not n.endswith(OPTIONAL)]
    placed = {n: _fit(kept[names[n]], wanted[n]) for n in wanted if n in names}
    misshapen = [n for n in placed if placed[n].shape != wanted[n].shape]
    problems = [
        f"{text}: {name_some(those)}"
        for text, those in (
            ("cannot place", unplaced + ours_already),
            ("lacks", [official(n) for n in missing]),
            ("has another shape for", [names[n] for n in misshapen]),
            ("has values that are not finite in", [names[n] for n in not_finite(placed)]),
        )
        if those
    ]
    if problems:
        raise WeightsError(
            f"the checkpoint{_seeming(given)} does not fit {type(model).__name__}: "
            f"{'; '.join(problems)}"
        )
    return placed


def _dropped(name: str, model: nn.Module) -> bool:
    rules = () if isinstance(model, C3nSegmenter) else DROPPED
    return is_index_buffer(name) or any(re.match(rule, name) for rule in rules)


def _translations(model: nn.Module) -> tuple[Callable[[str], str], Callable[[str], str]]:
    """What turns our names of this model into official ones, and the other way round."""
    if isinstance(model, AudioNetwork):
        return str, str
    return partial(official_name, model=model), partial(name_here, model=model)


def _fit(value: Tensor, wanted: Tensor) -> Tensor:
    """1x1x1 convolutions of the official TPAVI are 1x1 here."""
    return value.squeeze(-1) if value.dim() == 5 and wanted.dim() == 4 else value


def _seeming(tensors: Mapping[str, Tensor]) -> str:
    """What a checkpoint seems to be, in brackets; empty where its names tell nothing."""
    if HEAD not in tensors:
        ours = any(name.startswith(OWN_PREFIXES) for name in tensors)
        return " (one of this package, which needs no import)" if ours else ""
    kind = "C3N" if "conv1.atrous_block1.weight" in tensors else "TPAVI"
    backbone = next((b for name, b in TELLING_NAMES if name in tensors), "an unknown backbone")
    count = len(tensors[HEAD])
    text = f"{kind} with {backbone} and {count} class{'es' if count > 1 else ''}"
    aligned = [name for name in tensors if name.endswith("align_channel.weight")]
    if aligned:
        text += f", for sound features of {tensors[aligned[0]].shape[1]}"
        if aligned[0].replace("weight", "bias") not in tensors:
            text += " without bias (AVSS)"
    return f" ({text})"
