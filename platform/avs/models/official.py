"""Import weights published by the authors: TPAVI (AVSBench), C3N and the audio networks.

Names are translated by one literal table and matched strictly both ways, so a checkpoint of
another variant is refused, named for what it seems to be, instead of half loaded. What the official
files hold and our models lack on purpose is listed, nothing else is dropped: the duplicate ResNet
branch, which is never run, TPAVI's PVT classifier head, index buffers. An audio network knows its
published names itself (``own_names``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from avs.errors import WeightsError
from avs.models.backbones import pvt_names_to_timm
from avs.models.c3n import C3nSegmenter
from avs.models.frozen import FrozenAudioNetwork
from avs.models.swin import is_index_buffer
from avs.models.tpavi import TpaviSegmenter
from avs.models.types import AudioNetwork
from avs.models.weights import name_some, tensors_of

__all__ = ["import_official"]

RENAMES: tuple[tuple[str, str], ...] = (
    (r"^resnet\.layer([34])_1\.", r"backbone.net.layer\1."),
    (r"^resnet\.", "backbone.net."),
    (r"^conv([1-4])\.conv2d_list\.", r"necks.#\1.branches."),
    (r"^path([1-4])\.resConfUnit1\.", r"decoder.steps.#\1.skip_unit."),
    (r"^path([1-4])\.resConfUnit2\.", r"decoder.steps.#\1.out_unit."),
    (r"^output_conv\.", "decoder.head."),
    (r"^conv([1-4])\.conv\.", r"necks.#\1.pooled."),
    (r"^conv([1-4])\.atrous_block1\.", r"necks.#\1.point."),
    (r"^conv([1-4])\.atrous_block6\.", r"necks.#\1.dilated.0."),
    (r"^conv([1-4])\.atrous_block12\.", r"necks.#\1.dilated.1."),
    (r"^conv([1-4])\.atrous_block18\.", r"necks.#\1.dilated.2."),
    (r"^conv([1-4])\.conv_1x1_output\.", r"necks.#\1.out."),
    (r"^tpavi_b?([1-4])\.align_channel\.", r"fusions.\1.align."),
    (r"^tpavi_b?([1-4])\.norm_layer\.", r"fusions.\1.norm."),
    (r"^tpavi_b?([1-4])\.W_z\.0\.", r"fusions.\1.w_z."),
    (r"^tpavi_b?([1-4])\.W_z\.1\.", r"fusions.\1.bn."),
    (r"^tpavi_b?([1-4])\.", r"fusions.\1."),
)
DROPPED = (
    r"^resnet\.layer[34]_2\.",  # duplicate branch, never run
    r"^(resnet\.fc|encoder_backbone\.head)\.",  # ImageNet classifier
)
OPTIONAL = ("num_batches_tracked", "similarity")  # C3N's matrix was never published
BACKBONE_PREFIX = "encoder_backbone."
# What tells the official variants apart, for messages.
HEAD = "output_conv.4.weight"
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
    Raises WeightsError naming what could not be placed, what is missing, or whose shape differs.
    """
    if not isinstance(model, TpaviSegmenter | C3nSegmenter | AudioNetwork):
        raise WeightsError(f"no official names are known for {type(model).__name__}")
    if isinstance(model, FrozenAudioNetwork):
        given = model.own_names(state_dict)
    else:
        given = tensors_of(state_dict)
    kept = {name: value for name, value in given.items() if not _dropped(name, model)}
    translate = _translation(model)
    ours = {translate(name): (name, value) for name, value in kept.items()}
    wanted = model.state_dict()
    unplaced = [official for name, (official, _) in ours.items() if name not in wanted]
    missing = [name for name in wanted if name not in ours and not name.endswith(OPTIONAL)]
    placed = {name: _fit(ours[name][1], wanted[name]) for name in wanted if name in ours}
    misshapen = [ours[name][0] for name in placed if placed[name].shape != wanted[name].shape]
    problems = [
        f"{text}: {name_some(names)}"
        for text, names in (
            ("cannot place", unplaced),
            ("lacks", missing),
            ("has another shape for", misshapen),
        )
        if names
    ]
    if problems:
        raise WeightsError(
            f"the checkpoint{_seeming(given)} does not fit {type(model).__name__}: "
            f"{'; '.join(problems)}"
        )
    model.load_state_dict(placed, strict=False)


def _dropped(name: str, model: nn.Module) -> bool:
    rules = () if isinstance(model, C3nSegmenter) else DROPPED
    return is_index_buffer(name) or any(re.match(rule, name) for rule in rules)


def _translation(model: nn.Module) -> Callable[[str], str]:
    """What turns official names of this model into ours."""
    if isinstance(model, C3nSegmenter):
        return lambda name: _c3n_name(name, model)
    return _tpavi_name if isinstance(model, TpaviSegmenter) else str


def _c3n_name(name: str, model: C3nSegmenter) -> str:
    if name.startswith(BACKBONE_PREFIX):
        return "backbone." + model.backbone.official_name(name.removeprefix(BACKBONE_PREFIX))
    return _tpavi_name(name)


def _tpavi_name(name: str) -> str:
    if name.startswith(BACKBONE_PREFIX):
        return "backbone.net." + pvt_names_to_timm(name.removeprefix(BACKBONE_PREFIX))
    for pattern, replacement in RENAMES:
        if re.match(pattern, name):
            renamed = re.sub(pattern, replacement, name)
            return re.sub(r"#(\d)", lambda stage: str(int(stage[1]) - 1), renamed)  # 1-based there
    return name


def _fit(value: Tensor, wanted: Tensor) -> Tensor:
    """1x1x1 convolutions of the official TPAVI are 1x1 here."""
    return value.squeeze(-1) if value.dim() == 5 and wanted.dim() == 4 else value


def _seeming(tensors: Mapping[str, Tensor]) -> str:
    """What a checkpoint seems to be, in brackets; empty where its names tell nothing."""
    if any(name.startswith("segmenter.") for name in tensors):
        return " (one of this package, which needs no import)"
    if HEAD not in tensors:
        return ""
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
