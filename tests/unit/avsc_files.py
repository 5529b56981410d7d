"""A checkpoint of AVSC that sees some objects, for tests of what is told about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from small_configs import AVSC_OPTIONS, model_config

from avs.config import dump
from avs.models import build_system
from avs.training.checkpoint import save_checkpoint
from avs.training.clip_spec import ClipSpec


def save_avsc(folder: Path, *, names: Sequence[str], num_frames: int = 3) -> str:
    """Write random weights, 64 px, two windows a forward; returns the folder."""
    model = model_config(name="avsc", options=AVSC_OPTIONS, category_names=list(names))
    torch.manual_seed(0)
    save_checkpoint(
        str(folder),
        weights=build_system(model).state_dict(),
        config={"model": dump(model), "inference": {"windows_per_forward": 2, "num_threads": 1}},
        clip=ClipSpec(
            num_frames=num_frames, image_size_px=64, class_names=("background", "sounding")
        ),
        metrics={},
        card="Random weights for tests.\n",
        trainer_state=None,
    )
    return str(folder)
