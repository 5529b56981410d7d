"""A small prepared folder of synthetic clips, for tests on a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_configs import TWO_WORKERS

from avs.datasets import DataConfig
from avs.datasets.synthetic import SyntheticConfig
from avs.prepare import PrepareConfig
from avs.prepare.pipeline import prepare

__all__ = ["prepare_synthetic"]


def prepare_synthetic(folder: Path, *, shard_clips: int = 8, **synthetic: Any) -> Path:
    """Clips of 5 frames of 32 px in ``folder/prepared``; ``synthetic``: of SyntheticConfig."""
    data = DataConfig(
        name="synthetic",
        root=str(folder / "data"),
        image_size_px=32,
        num_frames=5,
        synthetic=SyntheticConfig(size_px=32, **synthetic),
    )
    out = folder / "prepared"
    config = PrepareConfig(data=data, scale=TWO_WORKERS, out=str(out), shard_clips=shard_clips)
    prepare(config, say=lambda _: None)
    return out
