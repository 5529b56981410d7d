"""One local Ray cluster for the whole session, and a small checkpoint made without training."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Ray reads these when it is imported, and its workers inherit them.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("RAY_ADDRESS", None)
os.environ.pop("AVS_API_TOKENS", None)

import pytest
import ray
import torch
from small_configs import model_config

from avs.config import dump
from avs.models import build_system
from avs.training.checkpoint import ClipSpec, save_checkpoint


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray with 4 logical CPUs, whatever the machine has: one must stay free beside two workers."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # socket paths: 107 characters
    ray.init(
        num_cpus=4,
        object_store_memory=200_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="warning",
        _temp_dir=folder,
    )
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of random weights whose masks are neither empty nor full."""
    model = model_config(options={"fusion_width": 32})
    torch.manual_seed(0)
    system = build_system(model)
    for module in system.modules():  # the fusion starts at zero: let the sound matter
        if isinstance(module, torch.nn.BatchNorm2d) and not module.weight.any():
            torch.nn.init.ones_(module.weight)
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(
        str(folder),
        weights=system.state_dict(),
        config={
            "model": dump(model),
            "inference": {"windows_per_forward": 1, "num_threads": 1},
        },
        clip=ClipSpec(num_frames=5, image_size_px=96, class_names=("background", "sounding")),
        metrics={},
        card="Random weights for tests.\n",
        trainer_state={},
    )
    return folder
