"""One local Ray cluster for the whole session."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

# Ray reads these when it is imported, and its workers inherit them.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.pop("RAY_ADDRESS", None)
os.environ.pop("AVS_API_TOKENS", None)

import pytest
import ray


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray with 4 logical CPUs, whatever the machine has: one must stay free beside two workers."""
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # socket paths: 107 characters
    ray.init(
        "local",
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
