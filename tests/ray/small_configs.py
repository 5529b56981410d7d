"""Configurations small enough for two cores, shared by the Ray tests."""

from __future__ import annotations

from pathlib import Path

from avs.losses import LossConfig
from avs.models import ModelConfig
from avs.scale import ScaleConfig
from avs.training.config import (
    InferenceConfig,
    LoopConfig,
    Precision,
    PreparedConfig,
    Schedule,
    TrainConfig,
)

SCALE = ScaleConfig(num_workers=2, cpus_per_worker=1, gpus_per_worker=0)


def train_config(
    prepared: Path,
    out: Path,
    *,
    epochs: int,
    seed: int = 1,
    batch_size: int = 2,
    image_size_px: int | None = None,
) -> TrainConfig:
    """A run of the smallest network on two workers."""
    return TrainConfig(
        data=PreparedConfig(prepared=str(prepared)),
        model=ModelConfig(
            name="tpavi",
            backbone="test_resnet",
            backbone_weights="random",
            audio_network="small",
            audio_weights="random",
            num_classes=1,
            options={"fusion_width": 16},
        ),
        loss=LossConfig(dice_weight=1.0),
        train=LoopConfig(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=1e-3,
            weight_decay=0.0,
            schedule=Schedule.CONSTANT,
            precision=Precision.FP32,
            flip=True,
            image_size_px=image_size_px,
            num_threads=1,
        ),
        inference=InferenceConfig(windows_per_forward=1, num_threads=1),
        scale=SCALE,
        seed=seed,
        out=str(out),
    )
