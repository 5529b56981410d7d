"""For all tests: real media (skipped aloud where there is none), a made-up S3, a checkpoint."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
import torch
from moto.server import ThreadedMotoServer
from small_configs import model_config, open_fusions

from avs.config import dump
from avs.models import build_system
from avs.training.checkpoint import save_checkpoint
from avs.training.clip_spec import ClipSpec

NOT_SET = "AVS_REAL_DATA is not set"


def pytest_configure() -> None:
    """A wrong folder must not look like a skipped test."""
    folder = os.environ.get("AVS_REAL_DATA")
    if folder and not Path(folder).is_dir():
        raise pytest.UsageError(f"AVS_REAL_DATA={folder} is not a folder")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that use the fixture, and skip all of the mark where there is no real media."""
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker("real_data")
        if item.get_closest_marker("real_data") and not os.environ.get("AVS_REAL_DATA"):
            item.add_marker(pytest.mark.skip(reason=NOT_SET))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real media that AVS_REAL_DATA names."""
    return Path(os.environ["AVS_REAL_DATA"]).resolve()  # who uses it without is skipped above


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """Address of an S3 that lives in this process."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    s3fs.S3FileSystem.clear_instance_cache()
    yield f"http://{host}:{port}"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def s3_folder(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix in an empty bucket."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/data"


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of random weights whose masks are neither empty nor full."""
    model = model_config(options={"fusion_width": 32})
    torch.manual_seed(0)
    system = build_system(model)
    open_fusions(system)
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
