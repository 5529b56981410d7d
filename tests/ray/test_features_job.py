"""The features stage of the prepare job, and a training on two ranks that uses it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import torch
from prepared_clips import prepare_synthetic
from small_configs import TWO_WORKERS, model_config, train_config

from avs.datasets.synthetic import Layout
from avs.models import build_audio_network
from avs.prepare.config import FeaturesConfig, FrozenNetworkConfig
from avs.prepare.features_pipeline import prepare_features
from avs.training.distributed import train_distributed

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("ray_cluster")]
JOB = Path(__file__).resolve().parents[2] / "jobs" / "prepare.py"


@pytest.fixture(scope="module")
def prepared(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    return prepare_synthetic(
        folder,
        shard_clips=2,
        layout=Layout.MS3,
        num_train=8,
        num_val=2,
        num_test=2,
        duration_s=5,
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A yamnet that was never trained."""
    path = tmp_path_factory.mktemp("weights") / "yamnet.pth"
    torch.manual_seed(0)
    torch.save(build_audio_network("yamnet", weights="random").state_dict(), path)
    return path


def _config(prepared: Path, weights: Path) -> FeaturesConfig:
    model = FrozenNetworkConfig(audio_network="yamnet", audio_weights=str(weights))
    return FeaturesConfig(prepared=str(prepared), model=model, scale=TWO_WORKERS)


def test_the_job_computes_once_and_training_on_two_ranks_uses_it(
    prepared: Path, weights: Path, tmp_path: Path
) -> None:
    config = train_config(prepared, tmp_path / "plain", epochs=1, scale=TWO_WORKERS)
    config.model = model_config(audio_network="yamnet", audio_weights=str(weights))
    plain = train_distributed(config, say=lambda _: None)

    model = ["model.audio_network=yamnet", f"model.audio_weights={weights}"]
    done = subprocess.run(
        [sys.executable, str(JOB), "stage=features", f"prepared={prepared}", *model],
        cwd=tmp_path,
        env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "features: 12 clips of yamnet-" in done.stdout

    lines: list[str] = []
    before = {p: p.stat().st_mtime_ns for p in prepared.rglob("*.parquet")}
    manifest = prepare_features(_config(prepared, weights), say=lines.append)
    assert manifest is not None
    assert sum(shard.num_rows for shard in manifest.shards) == 12
    assert lines[0] == "features: 6 of 6 shards are there already"
    assert {p: p.stat().st_mtime_ns for p in prepared.rglob("*.parquet")} == before

    config.out = str(tmp_path / "quick")
    quick = train_distributed(config, say=lines.append)
    assert any(line.startswith("train: audio features of yamnet-") for line in lines), lines
    for key in ("loss", "val_j", "val_f"):
        assert quick[0][key] == pytest.approx(plain[0][key], abs=1e-5)
