"""Evaluation on a local cluster."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_configs import TWO_WORKERS

from avs.datasets import DataConfig
from avs.datasets.synthetic import Layout, SyntheticConfig, write_synthetic
from avs.errors import ConfigError, DataError
from avs.inference.config import EvaluateConfig
from avs.inference.evaluation import evaluate
from avs.prepare import PrepareConfig
from avs.prepare.pipeline import prepare
from avs.training.config import PreparedConfig

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("ray_cluster")]

SYNTHETIC = SyntheticConfig(
    layout=Layout.MS3, num_train=0, num_val=0, num_test=4, size_px=64, duration_s=5
)


@pytest.fixture(scope="module")
def prepared(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, out = tmp_path_factory.mktemp("videos"), tmp_path_factory.mktemp("prepared")
    write_synthetic(root, SYNTHETIC)
    data = DataConfig(name="ms3", root=str(root), image_size_px=64, num_frames=5)
    prepare(
        PrepareConfig(data=data, scale=TWO_WORKERS, out=str(out), shard_clips=4), say=lambda _: None
    )
    return out


def _evaluation(checkpoint: Path, prepared: Path, out: Path) -> EvaluateConfig:
    return EvaluateConfig(
        checkpoint=str(checkpoint),
        data=PreparedConfig(prepared=str(prepared)),
        split="test",
        out=str(out),
        batch_size=1,
        num_pictures=2,
        scale=TWO_WORKERS,
    )


def test_evaluation_scores_the_three_sounds(
    tiny_checkpoint: Path, prepared: Path, tmp_path: Path
) -> None:
    metrics = evaluate(_evaluation(tiny_checkpoint, prepared, tmp_path), say=lambda _: None)
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["num_clips"] == 4
    assert 0 < metrics["j_true"] < 1
    assert len({metrics["j_true"], metrics["j_silent"], metrics["j_swapped"]}) == 3
    html = (tmp_path / "report.html").read_text()
    assert "http" not in html.replace("http-equiv", "")
    assert html.count("data:image/png;base64,") >= 2


def test_evaluation_does_not_write_over_a_checkpoint(tiny_checkpoint: Path, prepared: Path) -> None:
    with pytest.raises(ConfigError, match="is a checkpoint"):
        evaluate(_evaluation(tiny_checkpoint, prepared, tiny_checkpoint))


def test_evaluation_refuses_sound_that_is_aligned_otherwise(
    tiny_checkpoint: Path, prepared: Path, tmp_path: Path
) -> None:
    exact = Path(shutil.copytree(tiny_checkpoint, tmp_path / "exact"))
    text = (exact / "config.yaml").read_text()
    changed = text.replace("audio_alignment: avsbench", "audio_alignment: exact")
    (exact / "config.yaml").write_text(changed)
    with pytest.raises(DataError, match=r"alignment=avsbench, but .* exact: prepare"):
        evaluate(_evaluation(exact, prepared, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
