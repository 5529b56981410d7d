"""The checkpoints of stage ``serve``: random weights of each named model, made once below ``out``.

What a request costs does not depend on the weights, except for the masks: the networks get norms
under which the sound matters, so that masks are neither empty nor full.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from avs.config import dump
from avs.models import build_system
from avs.overrides import compose_as
from avs.training.checkpoint import save_checkpoint
from avs.training.clip_spec import ClipSpec
from avs.training.config import InferenceConfig, TrainConfig
from avs.training.resolve import LAST_WRITTEN

__all__ = ["random_checkpoint"]

_NUM_FRAMES = 5
_USUAL_SIDE_PX = 224  # of models that do not say
_RANDOM = ("model.backbone_weights=random", "model.audio_weights=random")


def random_checkpoint(model: str, folder: Path, *, num_threads: int) -> str:
    """A checkpoint folder of ``configs/model/MODEL.yaml``; to be called inside a Hydra main.

    Raises:
        ConfigError: there is no such model, or it cannot have random weights.
    """
    target = folder / f"{model}-{num_threads}"
    if (target / LAST_WRITTEN).exists():
        return str(target)
    given = [f"model={model}", *_RANDOM, "data.prepared=unused", "out=unused"]
    config = compose_as(TrainConfig, "train", given, key="serve.models")
    torch.manual_seed(0)
    system = build_system(config.model)
    for module in system.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.ones_(module.weight)
    inference: InferenceConfig = replace(config.inference, num_threads=num_threads)
    num_classes = max(2, config.model.num_classes)
    save_checkpoint(
        str(target),
        weights=system.state_dict(),
        config={"model": dump(config.model), "inference": asdict(inference)},
        clip=ClipSpec(
            num_frames=_NUM_FRAMES,
            image_size_px=config.train.image_size_px or _USUAL_SIDE_PX,
            class_names=("background", *(f"class{k}" for k in range(1, num_classes))),
        ),
        metrics={},
        card="Random weights for a benchmark.\n",
        trainer_state=None,
    )
    return str(target)
