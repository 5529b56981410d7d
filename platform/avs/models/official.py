"""Import weights published by the authors: AVSBench's TPAVI checkpoints and VGGish.

Names are translated by one literal table and matched strictly both ways, so a checkpoint of
another variant is refused instead of half loaded. What the official files hold and our models lack
on purpose is listed, nothing else is dropped: the duplicate ResNet branch, which is never run, the
PVT classifier head, VGGish's PCA.
"""

from __future__ import annotations

import re

from torch import Tensor, nn

from avs.errors import WeightsError
from avs.models.backbones import pvt_names_to_timm
from avs.models.small_audio import SmallAudioNet
from avs.models.tpavi import TpaviSegmenter
from avs.models.vggish import VGGish
from avs.models.weights import name_some

__all__ = ["import_official"]

RENAMES: tuple[tuple[str, str], ...] = (
    (r"^resnet\.layer([34])_1\.", r"backbone.net.layer\1."),
    (r"^resnet\.", "backbone.net."),
    (r"^conv([1-4])\.conv2d_list\.", r"necks.#\1.branches."),
    (r"^path([1-4])\.resConfUnit1\.", r"decoder.steps.#\1.skip_unit."),
    (r"^path([1-4])\.resConfUnit2\.", r"decoder.steps.#\1.out_unit."),
    (r"^output_conv\.", "decoder.head."),
    (r"^tpavi_b([1-4])\.align_channel\.", r"fusions.\1.align."),
    (r"^tpavi_b([1-4])\.norm_layer\.", r"fusions.\1.norm."),
    (r"^tpavi_b([1-4])\.W_z\.0\.", r"fusions.\1.w_z."),
    (r"^tpavi_b([1-4])\.W_z\.1\.", r"fusions.\1.bn."),
    (r"^tpavi_b([1-4])\.", r"fusions.\1."),
)
DROPPED = (
    r"^resnet\.layer[34]_2\.",  # duplicate branch, never run
    r"^(resnet\.fc|encoder_backbone\.head)\.",  # ImageNet classifier
    r"^(pproc\.)?pca_(eigen_vectors|means)$",  # VGGish post-processing, off in AVSBench
)
OPTIONAL = ("num_batches_tracked", "relative_position_index")
PVT_PREFIX = "encoder_backbone."


def import_official(model: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Load an official state dict into one of our models, in place.

    model: TPAVI with a pvt_v2_b5 or resnet50 backbone, VGGish (or our own small audio network).
    state_dict: official names, with or without a "module." prefix; index buffers may be absent.
    Raises WeightsError naming what could not be placed, what is missing, or whose shape differs.
    """
    if not isinstance(model, TpaviSegmenter | VGGish | SmallAudioNet):
        raise WeightsError(f"no official names are known for {type(model).__name__}")
    given = {name.removeprefix("module."): value for name, value in state_dict.items()}
    kept = {n: v for n, v in given.items() if not any(re.match(rule, n) for rule in DROPPED)}
    translate = _tpavi_name if isinstance(model, TpaviSegmenter) else str
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
            f"the checkpoint does not fit {type(model).__name__}: {'; '.join(problems)}"
        )
    model.load_state_dict(placed, strict=False)


def _tpavi_name(name: str) -> str:
    if name.startswith(PVT_PREFIX):
        return "backbone.net." + pvt_names_to_timm(name.removeprefix(PVT_PREFIX))
    for pattern, replacement in RENAMES:
        if re.match(pattern, name):
            renamed = re.sub(pattern, replacement, name)
            return re.sub(r"#(\d)", lambda stage: str(int(stage[1]) - 1), renamed)  # 1-based there
    return name


def _fit(value: Tensor, wanted: Tensor) -> Tensor:
    """1x1x1 convolutions of the official TPAVI are 1x1 here."""
    return value.squeeze(-1) if value.dim() == 5 and wanted.dim() == 4 else value
