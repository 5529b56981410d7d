"""Visual backbones: any timm network with feature maps at strides 4, 8, 16 and 32.

timm builds the network, so adding a backbone needs no code here; levels at other strides (2 of
ResNets) are dropped and NHWC maps (Swin) are turned to NCHW. Only Swin's blocks are walked through
here, because timm pads them in a way that mixes far rows at some sizes. Trade-off: timm's own
``pretrained`` loader tolerates missing names for feature networks, so weights from a file are
placed here, strictly.

Shapes: N frames, C channels, h x w pixels.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from avs.errors import ConfigError, WeightsError
from avs.models.onednn_linear import is_worthwhile, use_onednn
from avs.models.swin import is_swin, swin_patches, swin_stage
from avs.models.weights import fetch_from_hub, load_weights, name_some, not_finite

__all__ = [
    "STRIDES",
    "TimmBackbone",
    "build_backbone",
    "create_network",
    "levels_of",
    "place_strictly",
    "pvt_names_to_timm",
    "read_backbone_weights",
]

STRIDES = (4, 8, 16, 32)
RANDOM = "random"
TIMM = "timm"
SUGGESTED = (
    "pvt_v2_b5",
    "resnet50",
    "swin_base_patch4_window7_224",
    "mobilenetv2_100",
    "resnet10t",
)


class TimmBackbone(nn.Module):
    """[N, 3, H, W] -> four maps [N, C_l, h_l, w_l], finest first; ``channels`` gives C_l."""

    def __init__(self, net: nn.Module, *, name: str) -> None:
        super().__init__()
        self.net = net
        info: Any = net.feature_info
        rows = [
            {"reduction": reduction, "num_chs": width}
            for reduction, width in zip(info.reduction(), info.channels(), strict=True)
        ]
        self.levels, self.channels = levels_of(rows, name=name)
        self.channels_last = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, x_N3HW: Tensor) -> list[Tensor]:
        """Maps at strides 4, 8, 16, 32."""
        features = self.features(x_N3HW)
        maps = [features[level] for level in self.levels]
        return [x.permute(0, 3, 1, 2).contiguous() for x in maps] if self.channels_last else maps

    def features(self, x_N3HW: Tensor) -> list[Tensor]:
        """Every level of the network, with axes in its own order."""
        features: list[Tensor] = self.net(x_N3HW)
        return features


class SwinBackbone(TimmBackbone):
    """Swin at any size: timm's weights, our way through its blocks (:mod:`avs.models.swin`).

    At the size that the network was built for, the maps are timm's.
    """

    def features(self, x_N3HW: Tensor) -> list[Tensor]:
        """The outputs of the four stages, [N, h, w, C]."""
        net: Any = self.net
        features, x_NhwC = [], swin_patches(net, x_N3HW)
        for name, stage in net.items():
            if name.startswith("layers_"):
                x_NhwC = swin_stage(stage, x_NhwC, always_shift=False)
                features.append(x_NhwC)
        return features


def build_backbone(
    name: str, *, weights: str, drop_path: float = 0.0, options: dict[str, Any] | None = None
) -> TimmBackbone:
    """Build a timm backbone.

    weights: "random", "timm" (timm's own download), or a path, s3:// URI or hf-hub: name of a timm
    classification checkpoint (for PVT-v2 also the authors' file).
    drop_path: stochastic depth rate, linear over depth.
    options: further keywords for timm, e.g. {"pad_type": "same"}.
    Raises ConfigError for a backbone or option that cannot be used, WeightsError for weights.
    """
    keywords: dict[str, Any] = dict(options or {})
    if name.startswith("swin"):
        keywords.setdefault("strict_img_size", False)
        keywords["drop_path_rate"] = drop_path  # timm's default is 0.1
    elif drop_path:
        keywords["drop_path_rate"] = drop_path
    if is_swin(name):
        keywords.setdefault("always_partition", True)  # gives every odd block its shift
    net = create_network(name, pretrained=weights == TIMM, keywords=keywords, features_only=True)
    backbone = (SwinBackbone if is_swin(name) else TimmBackbone)(net, name=name)
    if weights not in (RANDOM, TIMM):
        _place(
            net, read_backbone_weights(name, weights), name=name, spec=weights, keywords=keywords
        )
    if is_worthwhile():
        use_onednn(net)
    return backbone


def pvt_names_to_timm(name: str) -> str:
    """Name of a parameter of the official PVT-v2 code -> its name in timm's feature network."""
    name = name.replace("mlp.dwconv.dwconv.", "mlp.dwconv.")
    if match := re.match(r"(patch_embed|block|norm)(\d)\.(.*)", name):
        kind, stage, rest = match[1], int(match[2]) - 1, match[3]
        if kind == "patch_embed":
            return f"stages_{stage}.downsample.{rest}" if stage else f"patch_embed.{rest}"
        return f"stages_{stage}.{'blocks' if kind == 'block' else 'norm'}.{rest}"
    return name


def levels_of(
    feature_info: Sequence[dict[str, Any]], *, name: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Levels of a network at ``STRIDES`` and their channels. Raises ConfigError for others."""
    strides = [int(level["reduction"]) for level in feature_info]
    missing = [stride for stride in STRIDES if stride not in strides]
    if missing:
        raise ConfigError(
            f"model.backbone={name!r} has feature strides {strides}; {list(STRIDES)} are needed"
        )
    # the last level of a stride is the deepest one
    levels = tuple(len(strides) - 1 - strides[::-1].index(stride) for stride in STRIDES)
    return levels, tuple(int(feature_info[level]["num_chs"]) for level in levels)


def read_backbone_weights(name: str, spec: str) -> dict[str, Tensor]:
    """State dict of ImageNet weights, from where ``load_weights`` reads. Raises WeightsError."""
    return load_weights(spec, wanted=f"ImageNet weights of {name}", where=_published_at(name))


def create_network(
    name: str, *, pretrained: bool, keywords: dict[str, Any], features_only: bool
) -> nn.Module:
    """Make timm's network ``name``. Raises ConfigError or, for its download, WeightsError."""
    import timm  # three seconds, with torchvision's and torch's compilers: only to build

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=5) or list(SUGGESTED)
        raise ConfigError(
            f"model.backbone={name!r} is not a timm model; known ones include {', '.join(close)}"
        )
    if pretrained:
        _ask_hub(name)
    only: dict[str, Any] = {"features_only": True} if features_only else {}
    try:
        net: nn.Module = timm.create_model(name, pretrained=pretrained, **only, **keywords)
    except TypeError as error:
        raise ConfigError(
            f"model.backbone={name!r} does not take one of {sorted(keywords)}: {error}"
        ) from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise ConfigError(f"model.backbone={name!r} gives no feature maps: {error}") from error
        raise WeightsError(
            f"model.backbone_weights='timm': cannot get the ImageNet weights of {name} from "
            f"{_published_at(name)}: {error}. Give the path of that file, or 'random' explicitly."
        ) from error
    return net


def _ask_hub(name: str) -> None:
    """Fetch what timm will load, so that a machine without network is told so at once: timm tries
    for most of a minute. Raises WeightsError."""
    config = _pretrained(name)
    if config is not None and config.hf_hub_id:
        fetch_from_hub(
            f"hf-hub:{config.hf_hub_id}/{config.hf_hub_filename or 'model.safetensors'}",
            way_out=f"model.backbone_weights='timm' wants the ImageNet weights of {name} from "
            f"{_published_at(name)}. Give the path of that file, or 'random' explicitly.",
        )


def _pretrained(name: str) -> Any:
    """What timm knows of the ImageNet weights of ``name``, or None."""
    import timm  # as in create_network

    return timm.get_pretrained_cfg(name)


def _published_at(name: str) -> str:
    config = _pretrained(name)
    if config is None:
        return "(timm knows no address)"
    hub = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else ""
    return hub or str(config.url or "(timm knows no address)")


def _place(
    net: nn.Module, state: dict[str, Tensor], *, name: str, spec: str, keywords: dict[str, Any]
) -> None:
    """Load ``state``: every name is used or belongs to the classifier that features lack."""
    if name.startswith("pvt_v2"):
        state = {pvt_names_to_timm(key): value for key, value in state.items()}
    wanted = net.state_dict()
    # timm's feature networks flatten "layers.0." to "layers_0."
    flat = {key: re.sub(r"^([a-z]+)\.(\d+)\.", r"\1_\2.", key) for key in state}
    state = {flat[key] if flat[key] in wanted else key: value for key, value in state.items()}
    with torch.device("meta"):
        whole = create_network(name, pretrained=False, keywords=keywords, features_only=False)
    classifier_names = set(whole.state_dict())
    classifier_names |= {"head.weight", "head.bias"}
    place_strictly(net, state, left_over=classifier_names.__contains__, name=name, spec=spec)


def place_strictly(
    net: nn.Module,
    state: dict[str, Tensor],
    *,
    left_over: Callable[[str], bool],
    name: str,
    spec: str,
) -> None:
    """Load ``state`` into ``net``: no name may lack, be left over or have another shape, no value
    be NaN or infinite.

    left_over: whether a name may be left over. Raises WeightsError naming ``spec`` and what is
    wanted in its place.
    """
    wanted = net.state_dict()
    counters = [key for key in wanted if key.endswith("num_batches_tracked")]
    missing = [key for key in wanted if key not in state and key not in counters]
    unused = sorted(key for key in state if key not in wanted and not left_over(key))
    placed = {key: state[key] for key in wanted if key in state}
    misshapen = [key for key in placed if placed[key].shape != wanted[key].shape]
    for problem, names in (
        ("lack", missing),
        ("hold unknown", unused),
        ("misfit in", misshapen),
        ("are not finite in", not_finite(placed)),
    ):
        if names:
            raise WeightsError(
                f"weights {spec!r} for {name} {problem}: {name_some(names)}. Wanted: ImageNet "
                f"weights of {name}, published at {_published_at(name)}."
            )
    net.load_state_dict(placed, strict=False)
