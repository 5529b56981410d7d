"""Visual backbones: any timm network with feature maps at strides 4, 8, 16 and 32.

timm builds the network, so adding a backbone needs no code here; levels at other strides (2 of
ResNets) are dropped and NHWC maps (Swin) are turned to NCHW. Trade-off: timm's own ``pretrained``
loader tolerates missing names for feature networks, so weights from a file are placed here,
strictly.

Shapes: N frames, C channels, h x w pixels.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

import timm
import torch
from torch import Tensor, nn

from avs.errors import ConfigError, WeightsError
from avs.models.weights import load_weights, name_some

__all__ = ["STRIDES", "TimmBackbone", "build_backbone", "pvt_names_to_timm"]

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
        strides = list(info.reduction())
        missing = [stride for stride in STRIDES if stride not in strides]
        if missing:
            raise ConfigError(
                f"model.backbone={name!r} has feature strides {strides}; {list(STRIDES)} are needed"
            )
        # the last level of a stride is the deepest one
        self.levels = tuple(len(strides) - 1 - strides[::-1].index(stride) for stride in STRIDES)
        self.channels = tuple(int(info.channels()[level]) for level in self.levels)
        self.channels_last = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, x_N3HW: Tensor) -> list[Tensor]:
        """Maps at strides 4, 8, 16, 32."""
        features = self.net(x_N3HW)
        maps = [features[level] for level in self.levels]
        return [x.permute(0, 3, 1, 2).contiguous() for x in maps] if self.channels_last else maps


def build_backbone(
    name: str, *, weights: str, drop_path: float = 0.0, options: dict[str, Any] | None = None
) -> TimmBackbone:
    """Build a timm backbone.

    weights: "random", "timm" (timm's own download) or a path / s3:// URI of a timm classification
    checkpoint (for PVT-v2 also the authors' file).
    drop_path: stochastic depth rate, linear over depth.
    options: further keywords for timm, e.g. {"pad_type": "same"}.
    Raises ConfigError for a backbone or option that cannot be used, WeightsError for weights.
    """
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=5) or list(SUGGESTED)
        raise ConfigError(
            f"model.backbone={name!r} is not a timm model; known ones include {', '.join(close)}"
        )
    keywords: dict[str, Any] = dict(options or {})
    if name.startswith("swin"):
        keywords.setdefault("strict_img_size", False)
    if drop_path:
        keywords["drop_path_rate"] = drop_path
    net = _create(name, pretrained=weights == TIMM, keywords=keywords)
    backbone = TimmBackbone(net, name=name)
    if weights not in (RANDOM, TIMM):
        state = load_weights(
            weights, wanted=f"ImageNet weights of {name}", where=_published_at(name)
        )
        _place(net, state, name=name, spec=weights, keywords=keywords)
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


def _create(name: str, *, pretrained: bool, keywords: dict[str, Any]) -> nn.Module:
    try:
        net: nn.Module = timm.create_model(
            name, pretrained=pretrained, features_only=True, **keywords
        )
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


def _published_at(name: str) -> str:
    config = timm.get_pretrained_cfg(name)
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
    # timm's feature networks flatten "layers.0." to "layers_0."
    flat = {re.sub(r"^([a-z]+)\.(\d+)\.", r"\1_\2.", key): key for key in state}
    wanted = net.state_dict()
    source = {key: key if key in state else flat.get(key) for key in wanted}
    optional = [key for key in wanted if key.endswith("num_batches_tracked")]
    missing = [key for key in wanted if source[key] is None and key not in optional]
    placed = {key: state[origin] for key, origin in source.items() if origin is not None}
    with torch.device("meta"):
        classifier_names = set(timm.create_model(name, **keywords).state_dict())
    unused = sorted(
        set(state) - set(source.values()) - classifier_names - {"head.weight", "head.bias"}
    )
    misshapen = [key for key in placed if placed[key].shape != wanted[key].shape]
    for problem, names in (("lack", missing), ("hold unknown", unused), ("misfit in", misshapen)):
        if names:
            raise WeightsError(f"weights {spec!r} for {name} {problem}: {name_some(names)}")
    net.load_state_dict(placed, strict=False)
