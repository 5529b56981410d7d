"""How the networks are computed, without another result but for rounding: memory and speed.

Names in the state dict stay as they are, so a checkpoint does not tell how it was computed. The
segmenter alone is compiled: the audio network is small or frozen. Trade-off: what of the backbone
is computed again is timm's choice, because only timm knows what of a network may be; of the
backbones that are walked through here, block by block, nothing can be.
"""

from __future__ import annotations

import torch
from torch import nn

from avs.errors import ConfigError
from avs.models import AvsSystem, ModelConfig
from avs.models.classified_base import ClassifiedBackbone
from avs.models.swin import is_swin
from avs.training.config import LoopConfig

__all__ = ["prepare_networks"]


def prepare_networks(system: AvsSystem, *, model: ModelConfig, loop: LoopConfig) -> None:
    """Change ``system`` in place as ``loop`` asks; before its optimiser is built.

    Raises:
        ConfigError: the backbone cannot be computed again.
    """
    if loop.channels_last:
        # torch's stubs lack the overload with a memory format alone
        system.segmenter.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if loop.checkpoint_backbone:
        _compute_again(system.segmenter.get_submodule("backbone"), model=model)
    if loop.compile:
        system.segmenter.compile()


def _compute_again(backbone: nn.Module, *, model: ModelConfig) -> None:
    refused = f"train.checkpoint_backbone=true with model.name={model.name}"
    if isinstance(backbone, ClassifiedBackbone):
        raise ConfigError(
            f"{refused}: its attention takes a gradient inside the forward pass, which needs the "
            "activations there and then; give false, and a smaller train.batch_size with "
            "train.accumulate_steps."
        )
    setter = getattr(backbone.net, "set_grad_checkpointing", None)
    if is_swin(model.backbone) or setter is None:
        raise ConfigError(
            f"{refused} model.backbone={model.backbone}: it has no checkpointing; give false, or "
            "a backbone that has (pvt_v2_b5, resnet50)."
        )
    setter(True)
