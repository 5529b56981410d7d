"""Every model on real pictures and sounds, with real frozen networks, in all three layouts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_clips import data_config, prepare
from small_configs import model_config, train_config

from avs.inference.split_scores import score_split
from avs.models import MODELS
from avs.training.loop import train
from avs.training.state import Worker

ROOTS = {"s4": "Single-source", "ms3": "Multi-sources", "avss": "AVSBench-semantic"}
# Sizes that train in seconds; a model without an entry has nothing but a width.
SMALL: dict[str, dict[str, Any]] = {
    "avsc": {"num_queries": 8, "encoder_layers": 1, "decoder_layers": 2, "loss_points": 256},
    "ccformer": {"num_queries": 8, "num_encoder_layers": 1, "num_decoder_layers": 2},
}

pytestmark = [pytest.mark.real_data, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", params=ROOTS)
def layout(
    request: pytest.FixtureRequest, real_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = real_data / "avsbench-mini" / ROOTS[request.param]
    frames = {"num_frames": 10} if request.param == "avss" else {}
    out = tmp_path_factory.mktemp("real") / "prepared"
    manifest = prepare(data_config(request.param, root, limit=2, **frames), out)
    assert manifest.counts["ok"] == 6
    return out


@pytest.mark.parametrize("name", MODELS)
def test_it_trains_on_frozen_real_networks_and_is_evaluated(
    name: str, layout: Path, real_data: Path, tmp_path: Path
) -> None:
    weights = real_data.parent / "weights"
    model = model_config(
        name=name,
        backbone="mobilenetv2_100",
        backbone_weights=str(weights / "mobilenetv2_100.safetensors"),
        audio_network="yamnet",
        audio_weights=str(weights / "yamnet.safetensors"),
        options={"fusion_width": 16, "backbone_options": {"pad_type": "same"}}
        | SMALL.get(name, {}),
    )
    config = replace(
        train_config(layout, tmp_path / "run", epochs=5, frozen_backbone_epochs=5, flip=False),
        model=model,
    )
    losses = [metrics["loss"] for metrics in train(config, Worker())]
    assert losses[-1] < losses[0]
    scores = score_split(config.out, str(layout), split="test", device="cpu")
    assert scores["num_clips"] == 2
    for condition in ("true", "silent", "swapped"):
        assert 0.0 <= scores["conditions"][condition]["j"] <= 1.0
