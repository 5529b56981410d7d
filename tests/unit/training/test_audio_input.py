"""Any audio network in training, evaluation and Predictor; checkpoints without frozen weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frozen_networks import Loudness
from made_clips import data_config, prepare
from safetensors.torch import load_file
from small_configs import model_config, train_config

from avs.errors import CheckpointError, ConfigError, DataError
from avs.inference.predictor import Predictor
from avs.inference.scoring import ClipScorer
from avs.media.audio import from_int16
from avs.models import AUDIO_NETWORKS
from avs.models.audio import AudioEntry
from avs.training.checkpoint import load_checkpoint, resolve_checkpoint
from avs.training.config import CheckpointConfig, TrainConfig
from avs.training.feed import ClipReader
from avs.training.loop import train
from avs.training.state import Worker


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    """The network is in the table like any other."""
    with pytest.MonkeyPatch.context() as patch:
        entry = AudioEntry(build=Loudness, files=("loudness.pth",), where="https://example.org")
        patch.setitem(AUDIO_NETWORKS, "loudness", entry)
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "loudness.pth"
    torch.manual_seed(3)
    torch.save(Loudness().state_dict(), path)
    return path


def config_of(prepared: Path, out: Path, weights: Path, **checkpoint: bool) -> TrainConfig:
    config = train_config(prepared, out)
    config.model = model_config(audio_network="loudness", audio_weights=str(weights))
    return replace(config, checkpoint=CheckpointConfig(**checkpoint))


@pytest.fixture(scope="module")
def run(prepared: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("waveform-run")
    train(config_of(prepared, out, weights), Worker())
    return out


def test_a_reader_gives_waveforms_of_the_clips_length_where_asked(prepared: Path) -> None:
    reader = ClipReader(str(prepared), split="train", input_kind="waveform")
    batch = reader.read([2, 0])
    assert batch.waveform is not None
    assert batch.waveform.dtype == torch.int16
    assert batch.waveform.shape == (2, 16000 * batch.frames.shape[1])
    assert batch.sound is batch.waveform
    assert batch.waveform.any(dim=1).all()
    moved = batch.to(torch.device("meta"))
    assert moved.waveform is not None
    assert moved.waveform.device.type == "meta"
    plain = ClipReader(str(prepared), split="train").read([2])
    assert plain.waveform is None
    assert plain.sound is plain.log_mel


def test_data_without_waveforms_is_refused_at_once(ms3_root: Path, tmp_path: Path) -> None:
    prepare(data_config("ms3", ms3_root, with_waveform=False), tmp_path / "mel")
    ClipReader(str(tmp_path / "mel"), split="train")
    with pytest.raises(DataError, match=r"data\.with_waveform=false.*needs waveforms"):
        ClipReader(str(tmp_path / "mel"), split="train", input_kind="waveform")


def test_training_evaluation_and_predictor_hear_the_same(
    run: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor.from_checkpoint(str(run))
    reader = ClipReader(str(prepared), split="val", input_kind="waveform")
    batch = reader.read([0])
    frames = batch.frames.permute(0, 1, 3, 4, 2).numpy()
    valid = np.ones(frames.shape[:2], np.bool_)
    trained = predictor.logits(frames, batch.sound.numpy(), valid)[0]
    silent = predictor.logits(frames, np.zeros_like(batch.sound.numpy()), valid)[0]
    assert not torch.equal(trained, silent)

    seen: list[torch.Tensor] = []
    forward = predictor.forward

    def note(*inputs: np.ndarray, **asked: bool) -> Iterator[tuple[torch.Tensor, Any]]:
        for logits, visible in forward(*inputs, **asked):
            seen.append(logits)
            yield logits, visible

    monkeypatch.setattr(predictor, "forward", note)
    samples = from_int16(batch.sound[0].numpy())
    list(predictor.segment(frames[0], samples, size_px=(64, 64)))
    assert torch.equal(seen[0][0], trained)

    scorer = ClipScorer(resolve_checkpoint(str(run)), str(prepared), "val", "cpu")
    row = scorer({"index": 0, "donor": 1, "picture": False})
    assert set(row["scores"]) == {"true", "silent", "swapped"}
    predictor.warm_up()


# checkpoint.self_contained


@pytest.fixture(scope="module")
def lean(prepared: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with ``checkpoint.self_contained=false``, stopped after its first epoch."""
    out = tmp_path_factory.mktemp("lean-run")
    config = config_of(prepared, out, weights, self_contained=False)
    train(replace(config, train=replace(config.train, epochs=1)), Worker())
    return out


def test_a_checkpoint_holds_its_frozen_audio_weights_by_default(run: Path) -> None:
    names = load_file(Path(resolve_checkpoint(str(run)), "weights.safetensors"))
    assert "audio.mix.weight" in names


def test_a_lean_checkpoint_leaves_them_out_and_goes_on_and_predicts_as_the_whole_one(
    lean: Path, run: Path, prepared: Path, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "lean"
    shutil.copytree(lean, out)
    names = load_file(Path(resolve_checkpoint(str(out)), "weights.safetensors"))
    assert names
    assert not any(name.startswith("audio.") for name in names)
    train(config_of(prepared, out, weights, self_contained=False), Worker())
    whole, ours = (load_checkpoint(str(folder / "checkpoints/epoch-0002")) for folder in (run, out))
    assert whole.weights.keys() == ours.weights.keys()
    assert all(torch.equal(value, ours.weights[name]) for name, value in whole.weights.items())


def test_a_lean_checkpoint_needs_the_same_audio_weights(
    lean: Path, weights: Path, tmp_path: Path
) -> None:
    aside = weights.rename(tmp_path / "aside.pth")
    try:
        with pytest.raises(CheckpointError, match=r"self_contained=false.*loudness\.pth.*example"):
            load_checkpoint(str(lean))
        torch.save({n: v + 1 for n, v in torch.load(aside).items()}, weights)
        with pytest.raises(CheckpointError, match=r"weights of hash \w{16}, but .* has \w{16}"):
            load_checkpoint(str(lean))
    finally:
        aside.rename(weights)
    load_checkpoint(str(lean))


def test_random_weights_cannot_be_left_out(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"self_contained=false with model\.audio_weights=random"):
        config_of(prepared, tmp_path, Path("random"), self_contained=False)


def test_a_trained_audio_network_is_always_inside(prepared: Path, tmp_path: Path) -> None:
    config: Any = train_config(prepared, tmp_path, epochs=1)
    train(replace(config, checkpoint=CheckpointConfig(self_contained=False)), Worker())
    assert any(n.startswith("audio.") for n in load_checkpoint(str(tmp_path)).weights)
