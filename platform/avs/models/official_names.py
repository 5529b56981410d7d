"""Names of the official TPAVI (AVSBench) and C3N checkpoints and ours, both ways.

One literal table is read in either direction: forward to place a checkpoint, backward so that
messages name what lacks as its authors do. The official files spell the fusion's prefix in two
ways; both are read, and each model is answered in its own (``tpavi_b1`` for TPAVI, ``tpavi_1`` for
C3N). A backbone's names are timm's here; the way back from those is checked by going forth again.
"""

from __future__ import annotations

import re

from torch import nn

from avs.models.backbones import pvt_names_to_timm
from avs.models.c3n import C3nSegmenter

__all__ = ["BACKBONE_PREFIX", "name_here", "official_name"]

BACKBONE_PREFIX = "encoder_backbone."
# (official, ours), the first that fits counts. {n}: the stage from 1; {i}: the same from 0.
PREFIXES: tuple[tuple[str, str], ...] = (
    ("resnet.layer3_1.", "backbone.net.layer3."),
    ("resnet.layer4_1.", "backbone.net.layer4."),
    ("resnet.", "backbone.net."),
    ("conv{n}.conv2d_list.", "necks.{i}.branches."),
    ("path{n}.resConfUnit1.", "decoder.steps.{i}.skip_unit."),
    ("path{n}.resConfUnit2.", "decoder.steps.{i}.out_unit."),
    ("output_conv.", "decoder.head."),
    ("conv{n}.conv.", "necks.{i}.pooled."),
    ("conv{n}.atrous_block1.", "necks.{i}.point."),
    ("conv{n}.atrous_block6.", "necks.{i}.dilated.0."),
    ("conv{n}.atrous_block12.", "necks.{i}.dilated.1."),
    ("conv{n}.atrous_block18.", "necks.{i}.dilated.2."),
    ("conv{n}.conv_1x1_output.", "necks.{i}.out."),
    ("{tpavi}{n}.align_channel.", "fusions.{n}.align."),
    ("{tpavi}{n}.norm_layer.", "fusions.{n}.norm."),
    ("{tpavi}{n}.W_z.0.", "fusions.{n}.w_z."),
    ("{tpavi}{n}.W_z.1.", "fusions.{n}.bn."),
    ("{tpavi}{n}.", "fusions.{n}."),
)
# timm's prefix -> the one of the authors' PVT-v2 or Swin; {i} as above, {before}: one less.
BACKBONE_PREFIXES: tuple[tuple[str, str], ...] = (
    ("stages.{i}.downsample.", "patch_embed{n}."),
    ("stages.{i}.blocks.", "block{n}."),
    ("stages.{i}.norm.", "norm{n}."),
    ("patch_embed.", "patch_embed1."),
    ("layers.{i}.downsample.", "layers.{before}.downsample."),
    ("head.fc.", "head."),
    ("norms.{i}.", "norm{i}."),
)


def name_here(official: str, *, model: nn.Module) -> str:
    """The name in ``model`` of an official one; what no rule knows stays as it is."""
    if official.startswith(BACKBONE_PREFIX):
        name = official.removeprefix(BACKBONE_PREFIX)
        if isinstance(model, C3nSegmenter):
            return f"backbone.{model.backbone.official_name(name)}"
        return f"backbone.net.{pvt_names_to_timm(name)}"
    return _exchanged(official, PREFIXES) or official


def official_name(name: str, *, model: nn.Module) -> str:
    """The official name of a parameter of ``model``, the way back of :func:`name_here`.

    A name that no official file can hold is returned as it is.
    """
    tpavi = "tpavi_" if isinstance(model, C3nSegmenter) else "tpavi_b"
    backward = tuple((ours, official) for official, ours in PREFIXES)
    guesses = [_exchanged(name, backward, tpavi=tpavi)]
    if name.startswith("backbone."):
        timm_name = name.removeprefix("backbone.").removeprefix("net.")
        known = _authors_name(timm_name)
        guesses.insert(0, known and BACKBONE_PREFIX + known)
        if isinstance(model, C3nSegmenter):
            guesses.insert(1, BACKBONE_PREFIX + timm_name)
    fitting = (guess for guess in guesses if guess and name_here(guess, model=model) == name)
    return next(fitting, name)


def _authors_name(timm_name: str) -> str | None:
    """What the authors of PVT-v2 or Swin call it, None where nothing is to be changed."""
    name = re.sub(r"^stages_(\d)", r"stages.\1", timm_name)  # as in feature networks
    name = _exchanged(name, BACKBONE_PREFIXES) or name
    name = name.replace(".mlp.dwconv.", ".mlp.dwconv.dwconv.")
    return None if name == timm_name else name


def _exchanged(name: str, rules: tuple[tuple[str, str], ...], *, tpavi: str = "") -> str | None:
    """``name`` with the prefix of the first rule that fits exchanged, None if none does."""
    for before, after in rules:
        match = re.match(_pattern(before), name)
        if match is None:
            continue
        found = match.groupdict()
        stage = int(found["n"]) if "n" in found else int(found.get("i", 0)) + 1
        prefix = after.format(n=stage, i=stage - 1, before=stage - 2, tpavi=tpavi)
        return prefix + name[match.end() :]
    return None


def _pattern(prefix: str) -> str:
    pattern = prefix.replace(".", r"\.").replace("{tpavi}", "tpavi_b?")
    return pattern.replace("{n}", "(?P<n>[1-4])").replace("{i}", "(?P<i>[0-3])")
