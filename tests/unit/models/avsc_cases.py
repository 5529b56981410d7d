"""A small AVSC for the tests of what is AVSC's alone."""

from __future__ import annotations

from typing import Any

import torch
from model_cases import CATEGORIES
from small_configs import AVSC_OPTIONS

from avs.models import build_model
from avs.models.avsc import AvscSegmenter

NAMES = CATEGORIES


def tiny(
    *, num_classes: int = 1, names: tuple[str, ...] = NAMES, seed: int = 0, **options: Any
) -> AvscSegmenter:
    """A model with random weights, in training mode."""
    torch.manual_seed(seed)
    model = build_model(
        "avsc",
        backbone="test_resnet",
        num_classes=num_classes,
        category_names=names,
        **(AVSC_OPTIONS | options),
    )
    assert isinstance(model, AvscSegmenter)
    return model
