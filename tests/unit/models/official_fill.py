"""Weights and inputs that the golden values were computed for: made by formula, not stored."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avs.models import build_model, import_official
from avs.models.tpavi import TpaviSegmenter

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
NUM_CLASSES_AVSS = 71


def generator(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


def fill(name: str, shape: list[int]) -> np.ndarray[Any, Any]:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    x = generator(name).standard_normal(shape, dtype=np.float32)
    if name.endswith("running_var"):
        return np.abs(x) + np.float32(0.5)
    if name.endswith("running_mean"):
        return np.float32(0.1) * x
    if len(shape) >= 2:
        return (x / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    if name.endswith("weight"):
        return (1 + 0.1 * x).astype(np.float32)
    return (0.1 * x).astype(np.float32)


def inp(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(generator(name).standard_normal(shape, dtype=np.float32))


def params(case: str) -> dict[str, list[int]]:
    """Official names and shapes; the AVSS variant differs from S4 in two ways only."""
    if case != "avss_pvt":
        shapes: dict[str, list[int]] = load_json(f"{case}_params.json")
        return shapes
    return {
        name: [NUM_CLASSES_AVSS, *shape[1:]] if name.startswith("output_conv.4") else shape
        for name, shape in params("avs_s4_pvt").items()
        if not name.endswith("align_channel.bias")
    }


def filled_state(case: str) -> dict[str, Tensor]:
    return {name: torch.as_tensor(fill(name, shape)) for name, shape in params(case).items()}


def filled_tpavi(case: str) -> TpaviSegmenter:
    avss = case.startswith("avss")
    model = build_model(
        "tpavi",
        backbone="resnet50" if "resnet" in case else "pvt_v2_b5",
        num_classes=NUM_CLASSES_AVSS if avss else 1,
        audio_bias=not avss,
        temporal_group=5 if avss else None,
    )
    assert isinstance(model, TpaviSegmenter)
    import_official(model, filled_state(case))
    return model.eval()


def load_json(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text())


def load_npz(name: str) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(GOLDEN / name) as data:
        return dict(data)
