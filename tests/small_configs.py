"""Configurations small enough for two cores, shared by all tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from avs import storage
from avs.losses import LossConfig
from avs.models import ModelConfig
from avs.scale import ScaleConfig
from avs.training.config import (
    InferenceConfig,
    LoopConfig,
    MixtureConfig,
    Precision,
    Schedule,
    TrainConfig,
)

ONE_WORKER = ScaleConfig(num_workers=1, cpus_per_worker=1, gpus_per_worker=0)
TWO_WORKERS = ScaleConfig(num_workers=2, cpus_per_worker=1, gpus_per_worker=0)

# An AVSC that learns a batch in seconds.
AVSC_OPTIONS: dict[str, Any] = {
    "fusion_width": 32,
    "num_heads": 4,
    "num_queries": 8,
    "encoder_layers": 1,
    "encoder_ffn_width": 64,
    "sampled_points": 2,
    "decoder_layers": 2,
    "ffn_width": 64,
    "sound_width": 64,
    "loss_points": 256,
}

# What two equal runs do not have in common in their lines of metrics.jsonl.
MEASURED = ("seconds", "clips_per_s", "stall", "checkpoint_s", "validation_s", "peak_memory_bytes")


def model_config(**changes: Any) -> ModelConfig:
    """A network of a few thousand parameters, from random weights."""
    model = ModelConfig(
        name="tpavi",
        backbone="test_resnet",
        backbone_weights="random",
        audio_network="small",
        audio_weights="random",
        num_classes=1,
        options={"fusion_width": 16},
    )
    return replace(model, **changes)


def train_config(
    prepared: Path, out: Path, *, scale: ScaleConfig = ONE_WORKER, seed: int = 5, **changes: Any
) -> TrainConfig:
    """A run of that network; ``changes`` go to the training loop."""
    loop = LoopConfig(
        epochs=2,
        batch_size=2,
        learning_rate=3e-3,
        weight_decay=0.0,
        schedule=Schedule.CONSTANT,
        precision=Precision.FP32,
        flip=True,
        image_size_px=None,
        num_threads=1,
    )
    return TrainConfig(
        data=MixtureConfig(prepared=str(prepared)),
        model=model_config(),
        loss=LossConfig(),
        train=replace(loop, **changes),
        inference=InferenceConfig(windows_per_forward=3, num_threads=1),
        scale=scale,
        seed=seed,
        out=storage.absolute(str(out)),
    )


def open_fusions(system: nn.Module) -> None:
    """Norms that start at zero, as those of the fusion: let the sound matter."""
    for module in system.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.ones_(module.weight)
