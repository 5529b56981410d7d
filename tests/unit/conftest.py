"""Shared places and folders: local and S3, a prepared data set, a trained run."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_clips import data_config, prepare, synthetic_config
from small_configs import train_config

from avs.datasets.synthetic import Layout, write_synthetic
from avs.training.loop import train
from avs.training.state import Worker


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder, on this disk and in a bucket."""
    if request.param == "local":
        return str(tmp_path / "data")
    folder: str = request.getfixturevalue("s3_folder")
    return folder


@pytest.fixture(scope="session")
def s4_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two train, one val and one test clip in the S4 layout. Tests must leave it as it is."""
    root = tmp_path_factory.mktemp("s4")
    write_synthetic(root, synthetic_config(Layout.S4))
    return root


@pytest.fixture(scope="session")
def ms3_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight train, three val and four test clips in the MS3 layout."""
    root = tmp_path_factory.mktemp("ms3")
    write_synthetic(root, synthetic_config(Layout.MS3, num_train=8, num_val=3, num_test=4))
    return root


@pytest.fixture(scope="session")
def prepared(ms3_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ms3_root`` as prepared data, three clips a shard."""
    out = tmp_path_factory.mktemp("prepared")
    prepare(data_config("ms3", ms3_root), out)
    return out


@pytest.fixture(scope="session")
def run_folder(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on ``prepared``."""
    out = tmp_path_factory.mktemp("run")
    train(train_config(prepared, out), Worker())
    return out
