"""Visual backbones that keep their own ImageNet classifier, as C3N (Shi et al., TMM 2024) needs.

One pass gives the four maps for the decoder, the outputs of each stage's last block before the
stage norm, and the class logits, which hang on those outputs in one graph: the class attention
differentiates through it. Under no_grad or inference_mode that graph is recorded all the same,
from the first stage's output on; what comes before runs in the caller's mode. The classifier only
picks a class and gets no gradient from any loss, so it is frozen and stays in eval mode.

Shapes: N frames, C channels, h x w pixels, L stages (4).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
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
from avs.models.swin import is_index_buffer, swin_names_to_timm, swin_stage

__all__ = [
    "ClassifiedBackbone",
    "ClassifiedMaps",
    "build_classified_backbone",
]

NUM_IMAGENET_CLASSES = 1000
PROBE_SIDE_PX = 64


@dataclass(kw_only=True, slots=True)
class ClassifiedMaps:
    """maps: per stage [N, C, h, w] for the decoder. logits: [N, 1000] float32.

    blocks: per stage the output of its last block, [N, h, w, C] or [N, C, h, w].
    """

    maps: list[Tensor]
    blocks: list[Tensor]
    logits: Tensor


class ClassifiedBackbone(nn.Module):
    """[N, 3, H, W] -> :class:`ClassifiedMaps`; ``classifier`` names the frozen parts of ``net``."""

    channels_last = True  # of the blocks' outputs

    def __init__(self, net: Any, *, channels: Sequence[int], classifier: Sequence[str]) -> None:
        super().__init__()
        self.net = net
        self.channels = tuple(channels)
        self.classifier = tuple(classifier)
        for name in self.classifier:
            net.get_submodule(name).requires_grad_(False)

    def forward(self, x_N3HW: Tensor) -> ClassifiedMaps:
        """The logits can be differentiated to the blocks whatever mode the caller is in."""
        caller_records = torch.is_grad_enabled()
        with torch.inference_mode(False):
            with torch.set_grad_enabled(caller_records):
                first = self.first_block(x_N3HW)
            with torch.enable_grad():
                if not first.requires_grad:
                    # an inference tensor cannot enter a graph, its copy can
                    first = first.clone() if first.is_inference() else first.detach()
                    first.requires_grad_()
                return self.classified(first)

    def first_block(self, x_N3HW: Tensor) -> Tensor:
        """What the graph starts from: the first stage, up to its norm."""
        raise NotImplementedError

    def classified(self, first: Tensor) -> ClassifiedMaps:
        """Everything from the result of ``first_block`` on."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> ClassifiedBackbone:
        """The frozen classifier keeps the statistics it was trained with."""
        super().train(mode)
        for name in self.classifier:
            self.net.get_submodule(name).eval()
        return self

    @staticmethod
    def named_as_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """An ImageNet checkpoint, timm's or the authors', with the names of ``net``."""
        return state

    @staticmethod
    def official_name(name: str) -> str:
        """Name of a parameter of the official C3N backbone -> its name here."""
        return f"net.{name}"

    def _logits(self, head: nn.Module, features: Tensor) -> Tensor:
        """Class logits in float32 also under autocast."""
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = head(features.float())
        return logits


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
        return swin_stage(self.net.layers[0], self.net.patch_embed(x_N3HW))

    def classified(self, first: Tensor) -> ClassifiedMaps:
        """A stage starts from the un-normed output of the stage before."""
        blocks = [first]
        for stage in self.net.layers[1:]:
            blocks.append(swin_stage(stage, blocks[-1]))
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

    weights: "random", "timm" (timm's own download) or a path / s3:// URI of an ImageNet-1k
    checkpoint, timm's or (PVT-v2, Swin) its authors'. The rest as in ``build_backbone``.
    Raises ConfigError for a backbone that cannot be used, WeightsError for weights.
    """
    keywords: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    keywords |= options or {}
    kind = _kind(name)
    if kind is ClassifiedSwin:
        keywords |= {"drop_path_rate": drop_path, "strict_img_size": False}
        keywords |= {"always_partition": True}  # shift and mask also where one window is the map
    net = create_network(name, pretrained=weights == TIMM, keywords=keywords, features_only=False)
    if getattr(net, "num_classes", None) != NUM_IMAGENET_CLASSES:
        raise ConfigError(
            f"model.backbone={name!r} has {getattr(net, 'num_classes', 'no')} classes: c3n needs "
            f"the {NUM_IMAGENET_CLASSES} of ImageNet-1k"
        )
    if weights not in (RANDOM, TIMM):
        state = kind.named_as_timm(read_backbone_weights(name, weights))
        place_strictly(net, state, left_over=is_index_buffer, name=name, spec=weights)
    return kind(net, name=name)


def _kind(name: str) -> type[ClassifiedPvt] | type[ClassifiedSwin] | type[ClassifiedTimm]:
    if name.startswith("pvt_v2"):
        return ClassifiedPvt
    return ClassifiedSwin if name.startswith("swin_") else ClassifiedTimm


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
