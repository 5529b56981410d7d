"""The backbones of C3N (Shi et al., TMM 2024): PVT-v2, Swin, or any timm network for trials.

timm builds the networks with their ImageNet-1k classifiers; here is what lies between its modules
and :class:`avs.models.classified_base.ClassifiedBackbone`: where a stage ends, which norm its map
goes through, and how the authors named it all. Trade-off: the two published networks are walked
through stage by stage, because timm's own forward gives no block's output.

Shapes: N frames, C channels, h x w pixels, P = h*w.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from avs.errors import ConfigError
from avs.models.backbones import (
    RANDOM,
    TIMM,
    create_network,
    levels_of,
    place_strictly,
    pvt_names_to_timm,
    read_backbone_weights,
)
from avs.models.classified_base import ClassifiedBackbone, ClassifiedMaps
from avs.models.onednn_linear import is_worthwhile, use_onednn
from avs.models.swin import (
    is_index_buffer,
    is_swin,
    swin_names_to_timm,
    swin_patches,
    swin_stage,
)

__all__ = ["build_classified_backbone"]

NUM_IMAGENET_CLASSES = 1000
PROBE_SIDE_PX = 64


class ClassifiedPvt(ClassifiedBackbone):
    """PVT-v2: the logits are the head of the mean of the last stage's tokens, after its norm."""

    def __init__(self, net: Any, *, name: str) -> None:  # noqa: ARG002  (as for the others)
        channels = [info["num_chs"] for info in net.feature_info]
        super().__init__(net, channels=channels, classifier=["head"])

    def first_block(self, x_N3HW: Tensor) -> Tensor:
        """[N, h, w, C] at stride 4."""
        return self._blocks(self.net.stages[0], self.net.patch_embed(x_N3HW))

    def classified(self, first: Tensor) -> ClassifiedMaps:
        """A stage starts from the normed map of the stage before."""
        blocks, maps = [first], [_normed(self.net.stages[0].norm, first)]
        for stage in self.net.stages[1:]:
            blocks.append(self._blocks(stage, stage.downsample(maps[-1])))
            maps.append(_normed(stage.norm, blocks[-1]))
        logits = self._logits(self.net.head, maps[-1].mean(dim=(2, 3), dtype=torch.float32))
        return ClassifiedMaps(maps=maps, blocks=blocks, logits=logits)

    @staticmethod
    def named_as_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """No name of the one is a name of the other."""
        return {_pvt_name(name): value for name, value in state.items()}

    @staticmethod
    def official_name(name: str) -> str:
        """The official backbone is the authors' PVT-v2."""
        return f"net.{_pvt_name(name)}"

    def _blocks(self, stage: Any, x_NhwC: Tensor) -> Tensor:
        size = x_NhwC.shape[1:3]
        x_NPC = x_NhwC.flatten(1, 2)
        for block in stage.blocks:
            x_NPC = block(x_NPC, size)
        return x_NPC.reshape(-1, *size, x_NPC.shape[-1])


class ClassifiedSwin(ClassifiedBackbone):
    """Swin in the form of the official C3N code: a LayerNorm after each stage.

    The ImageNet network's final norm is gone; the last of ``norms``, which takes its place, starts
    as the identity (the official loader does not fill it either).
    """

    def __init__(self, net: Any, *, name: str) -> None:  # noqa: ARG002  (as for the others)
        channels = [info["num_chs"] for info in net.feature_info]
        super().__init__(net, channels=channels, classifier=["head"])
        self.net.norm = nn.Identity()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in channels)

    def first_block(self, x_N3HW: Tensor) -> Tensor:
        """[N, h, w, C] at stride 4."""
        return swin_stage(self.net.layers[0], swin_patches(self.net, x_N3HW), always_shift=True)

    def classified(self, first: Tensor) -> ClassifiedMaps:
        """A stage starts from the un-normed output of the stage before."""
        blocks = [first]
        for stage in self.net.layers[1:]:
            blocks.append(swin_stage(stage, blocks[-1], always_shift=True))
        maps = [_normed(norm, x) for norm, x in zip(self.norms, blocks, strict=True)]
        logits = self._logits(self.net.head.fc, maps[-1].mean(dim=(2, 3), dtype=torch.float32))
        return ClassifiedMaps(maps=maps, blocks=blocks, logits=logits)

    @staticmethod
    def named_as_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """timm's classifier is ``head.fc``; its patch merging starts a stage."""
        if "head.weight" not in state:
            return state
        return {swin_names_to_timm(name): value for name, value in state.items()}

    @staticmethod
    def official_name(name: str) -> str:
        """The authors' Swin, with the norms after the stages."""
        if re.match(r"norm\d\.", name):
            return f"norms.{name.removeprefix('norm')}"
        return f"net.{swin_names_to_timm(name)}"


class ClassifiedTimm(ClassifiedBackbone):
    """Any other timm network (for trials): a stage's output is both its map and its last block."""

    channels_last = False

    def __init__(self, net: Any, *, name: str) -> None:
        if not hasattr(net, "forward_intermediates"):
            raise ConfigError(
                f"model.backbone={name!r} does not give its feature maps: take another"
            )
        self.levels, channels = levels_of(net.feature_info, name=name)
        super().__init__(net, channels=channels, classifier=_unreached(net, self.levels, name=name))

    def first_block(self, x_N3HW: Tensor) -> Tensor:
        """The frames: timm runs all stages in one call."""
        return x_N3HW

    def classified(self, first: Tensor) -> ClassifiedMaps:
        """timm's own forward."""
        features, maps = self.net.forward_intermediates(first, indices=list(self.levels))
        logits = self._logits(self.net.forward_head, features)
        return ClassifiedMaps(maps=maps, blocks=maps, logits=logits)


def build_classified_backbone(
    name: str, *, weights: str, drop_path: float = 0.0, options: dict[str, Any] | None = None
) -> ClassifiedBackbone:
    """Build a timm backbone with its ImageNet-1k classifier.

    weights: "random", "timm" (timm's own download) or a path, s3:// URI or hf-hub: name of an
    ImageNet-1k checkpoint, timm's or (PVT-v2, Swin) its authors'. The rest as in
    ``build_backbone``.
    Raises ConfigError for a backbone that cannot be used, WeightsError for weights.
    """
    keywords: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    keywords |= options or {}
    kind = _kind(name)
    if kind is ClassifiedSwin:
        keywords |= {"drop_path_rate": drop_path, "strict_img_size": False}
        keywords |= {"always_partition": True}  # gives every odd block its shift
    net = create_network(name, pretrained=weights == TIMM, keywords=keywords, features_only=False)
    if getattr(net, "num_classes", None) != NUM_IMAGENET_CLASSES:
        raise ConfigError(
            f"model.backbone={name!r} has {getattr(net, 'num_classes', 'no')} classes: c3n needs "
            f"the {NUM_IMAGENET_CLASSES} of ImageNet-1k"
        )
    if weights not in (RANDOM, TIMM):
        state = kind.named_as_timm(read_backbone_weights(name, weights))
        place_strictly(net, state, left_over=is_index_buffer, name=name, spec=weights)
    if is_worthwhile():
        use_onednn(net)
    return kind(net, name=name)


def _kind(name: str) -> type[ClassifiedPvt] | type[ClassifiedSwin] | type[ClassifiedTimm]:
    if name.startswith("pvt_v2"):
        return ClassifiedPvt
    return ClassifiedSwin if is_swin(name) else ClassifiedTimm


def _pvt_name(name: str) -> str:
    return pvt_names_to_timm(name).replace("stages_", "stages.")


def _normed(norm: nn.Module, x_NhwC: Tensor) -> Tensor:
    """The normed map [N, C, h, w], channels last in memory: what follows takes it as it is."""
    normed_NhwC: Tensor = norm(x_NhwC)
    return normed_NhwC.permute(0, 3, 1, 2)


def _unreached(net: Any, levels: Sequence[int], *, name: str) -> list[str]:
    """Modules of ``net`` whose parameters act on the class scores but on no map.

    Found by differentiating the maps of an empty picture, so it holds for any network. Raises
    ConfigError where the scores do not depend on the maps: nothing could be attended to.
    """
    training = net.training
    picture = torch.zeros(1, 3, PROBE_SIDE_PX, PROBE_SIDE_PX)
    with torch.inference_mode(False), torch.enable_grad():
        features, maps = net.eval().forward_intermediates(picture, indices=list(levels))
        logits = net.forward_head(features)
        named = dict(net.named_parameters())
        gradients = torch.autograd.grad(
            torch.stack([x.sum() for x in maps]).sum(),
            list(named.values()),
            retain_graph=True,
            allow_unused=True,
        )
        to_maps = torch.autograd.grad(logits.sum(), maps, allow_unused=True)
    net.train(training)
    if any(gradient is None for gradient in to_maps):
        raise ConfigError(
            f"model.backbone={name!r}: its class scores do not come from its maps; take another"
        )
    unreached = [key for key, gradient in zip(named, gradients, strict=True) if gradient is None]
    return sorted({key.rpartition(".")[0] for key in unreached})
