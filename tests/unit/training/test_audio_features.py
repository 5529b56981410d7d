"""Training on features computed before: the same run, in which the audio network does not run."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feature_runs import features, folder_of
from frozen_networks import Loudness, Tones, know_networks, write_weights
from made_clips import data_config, prepare
from safetensors.torch import load_file
from small_configs import model_config, train_config

from avs.errors import DataError
from avs.inference.predictor import Predictor
from avs.models import AvsSystem, build_system
from avs.models.system import hear
from avs.prepare.features_files import FeaturesManifest, features_manifest_uri
from avs.prepare.manifest import read_manifest, write_manifest
from avs.training.audio_features import find_features
from avs.training.augment import augment
from avs.training.checkpoint import load_checkpoint
from avs.training.config import MixtureConfig, TrainConfig
from avs.training.feed import ClipReader
from avs.training.loop import train
from avs.training.run import Run
from avs.training.state import Worker


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    know_networks(monkeypatch)


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> Path:
    """A prepared folder of its own."""
    folder = tmp_path / "prepared"
    shutil.copytree(prepared, folder)
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path, "tones")


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What runs report, but for their steps."""
    told: list[str] = []

    def note(_: Run, line: str, **__: float) -> None:
        if "step" not in line:
            told.append(line)

    monkeypatch.setattr(Run, "report_progress", note)
    return told


def config_of(
    data: Path | list[Path], out: Path, weights: Path, network: str = "tones", **changes: Any
) -> TrainConfig:
    first, *others = data if isinstance(data, list) else [data]
    config = train_config(first, out, **changes)
    config.model = model_config(audio_network=network, audio_weights=str(weights))
    if others:
        config.data = MixtureConfig(prepared=[str(folder) for folder in (first, *others)])
    return config


def compute(data: Path, weights: Path, network: str = "tones") -> FeaturesManifest:
    manifest = features(data, weights, network=network)
    assert manifest is not None
    return manifest


def silence_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a network that runs fails the test."""

    def ran(*_: Any) -> None:
        pytest.fail("the audio network ran")

    for network in (Tones, Loudness):
        monkeypatch.setattr(network, "describe", ran)


@pytest.mark.parametrize("network", ["tones", "loudness"])
def test_a_run_is_what_it_is_without_but_the_network_does_not_run(
    data: Path, tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    weights = write_weights(tmp_path, network)
    plain = train(config_of(data, tmp_path / "plain", weights, network), Worker())
    assert lines == []
    manifest = compute(data, weights, network)
    silence_networks(monkeypatch)
    quick = train(config_of(data, tmp_path / "quick", weights, network), Worker())
    short = f"{network}-{manifest.weights_hash[:8]}"
    folder = folder_of(data, manifest)
    assert lines == [f"audio features of {short} from {folder}, the network does not run"]
    for one, other in zip(plain, quick, strict=True):
        for key in ("loss", "val_j"):
            assert other[key] == pytest.approx(one[key], abs=1e-6), key
        # A pixel on one of F's 255 thresholds may fall to either side of it.
        assert other["val_f"] == pytest.approx(one["val_f"], abs=1e-4)


def test_the_checkpoint_is_whole_and_hears_new_videos(
    data: Path, weights: Path, tmp_path: Path
) -> None:
    compute(data, weights)
    train(config_of(data, tmp_path / "run", weights, epochs=1), Worker())
    checkpoint = load_checkpoint(str(tmp_path / "run"))
    saved = load_file(Path(checkpoint.uri, "weights.safetensors"))
    for name, value in torch.load(weights).items():
        assert torch.equal(saved[f"audio.{name}"], value)
    predictor = Predictor.from_checkpoint(str(tmp_path / "run"))
    batch = ClipReader(str(data), split="val").read([0])
    frames = batch.frames.permute(0, 1, 3, 4, 2).numpy()
    valid = np.ones(frames.shape[:2], np.bool_)
    loud, quiet = (
        predictor.logits(frames, sound, valid)[0]
        for sound in (batch.sound.numpy(), np.full_like(batch.sound.numpy(), -4.6))
    )
    assert not torch.equal(loud, quiet)


def test_padding_is_silenced_and_class_scores_arrive(
    data: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute(data, weights)
    config = model_config(audio_network="tones", audio_weights=str(weights))
    system = build_system(config).eval()
    batch = ClipReader(str(data), split="train").read([0, 1])
    heard = hear(system.audio, batch.sound, num_frames=5)
    seen: list[Any] = []
    system.segmenter.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    padded = torch.tensor([[True] * 5, [True, True, False, False, False]])
    for sound in (batch.sound, heard):
        system(batch.frames, sound, padded)
    computed, given = seen
    assert torch.equal(given.audio_embedding, computed.audio_embedding)
    assert not given.audio_embedding[1, 2:].any()
    assert given.audio_logits.shape == (2, 5, 527)
    assert torch.equal(given.audio_logits, computed.audio_logits)


def test_no_augmentation_touches_what_was_heard(data: Path, weights: Path, tmp_path: Path) -> None:
    """Else a run with features would not be the run without."""
    compute(data, weights)
    config = config_of(data, tmp_path, weights, crop_scale=(0.3, 0.6), color_jitter=(0.5,) * 4)
    audio = build_system(config.model).audio
    reader = ClipReader(str(data), split="train", input_kind="waveform")
    found, _ = find_features(reader.manifests, network="tones", audio=audio)
    assert found is not None
    reader.use_features(found)
    changed, as_read = reader.read([0, 1, 2]), reader.read([0, 1, 2])
    augment(changed, loop=config.train, seed=[0])
    assert not torch.equal(changed.frames, as_read.frames)
    for name in ("sound", "log_mel", "audio_embedding", "audio_logits"):
        assert torch.equal(getattr(changed, name), getattr(as_read, name)), name


def test_another_process_reads_the_same(data: Path, weights: Path) -> None:
    compute(data, weights)
    config = model_config(audio_network="tones", audio_weights=str(weights))
    manifests = {str(data): read_manifest(str(data))}
    found, _ = find_features(manifests, network="tones", audio=build_system(config).audio)
    assert found is not None
    name = manifests[str(data)].split_shards("train")[0].name
    clip_id = ClipReader(str(data), split="train").clip_ids()[1]
    here = found(str(data), name, 1, clip_id)
    there = pickle.loads(pickle.dumps(found))(str(data), name, 1, clip_id)
    assert here.keys() == there.keys() == {"embedding", "logits"}
    assert all(np.array_equal(here[key], there[key]) for key in here)


def test_several_folders_use_theirs_or_none_does(
    data: Path, s4_root: Path, weights: Path, tmp_path: Path, lines: list[str]
) -> None:
    other = tmp_path / "single"
    prepare(data_config("s4", s4_root), other)
    compute(data, weights)
    plain = train(config_of([data, other], tmp_path / "a", weights, epochs=1), Worker())
    (line,) = lines
    assert line.startswith(f"audio features in {data}/features are not used: {other} has none")
    compute(other, weights)
    quick = train(config_of([data, other], tmp_path / "b", weights, epochs=1), Worker())
    assert "and 1 more, the network does not run" in lines[1]
    assert quick[0]["loss"] == pytest.approx(plain[0]["loss"], abs=1e-6)


def rename(data: Path, folder: Path) -> None:
    folder.rename(folder.with_name(f"tones-{'0' * 16}"))


def change_clips(data: Path, folder: Path) -> None:
    manifest = read_manifest(str(data))
    manifest.shards[0] = replace(manifest.shards[0], sha256="0" * 64)
    write_manifest(str(data), manifest)


def unfinish(data: Path, folder: Path) -> None:
    Path(features_manifest_uri(str(folder))).unlink()


def age(data: Path, folder: Path) -> None:
    path = Path(features_manifest_uri(str(folder)))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"features_version": 0}))


def cut(data: Path, folder: Path) -> None:
    path = next(folder.glob("train-*.parquet"))
    path.write_bytes(path.read_bytes()[:-1])


def lose(data: Path, folder: Path) -> None:
    next(folder.glob("val-*.parquet")).unlink()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (rename, "has those of tones-0000000000000000, the network of this run is tones-"),
        (change_clips, "the clips of .* have changed since"),
        (unfinish, r"has no manifest\.json: it is not finished"),
        (age, "features_version 0, this code reads 1"),
        (cut, r"train-\d+\.parquet is missing or has another size"),
        (lose, r"val-\d+\.parquet is missing or has another size"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_does_not_fit_is_not_used_and_one_line_says_why(
    data: Path, weights: Path, harm: Callable[[Path, Path], None], reason: str
) -> None:
    harm(data, folder_of(data, compute(data, weights)))
    config = model_config(audio_network="tones", audio_weights=str(weights))
    found, line = find_features(
        {str(data): read_manifest(str(data))}, network="tones", audio=build_system(config).audio
    )
    assert found is None
    assert "\n" not in line
    assert line.startswith(f"audio features in {data}/features are not used: ")
    assert re.search(reason, line), line
    assert f"run jobs/prepare.py stage=features prepared={data}" in line


def test_weights_of_another_checkpoint_are_told_from_those_of_the_file(
    data: Path, weights: Path, tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``train.init_from`` brings its own audio weights, whatever model.audio_weights says."""
    other = write_weights(tmp_path, "tones", seed=4)
    train(config_of(data, tmp_path / "other", other, epochs=1), Worker())
    compute(data, weights)
    start = {"epochs": 1, "init_from": str(tmp_path / "other")}
    train(config_of(data, tmp_path / "tuned", weights, **start), Worker())
    assert "are not used" in lines[-1]
    compute(data, other)
    silence_networks(monkeypatch)
    train(config_of(data, tmp_path / "again", weights, **start), Worker())
    assert "the network does not run" in lines[-1]


def test_a_network_that_is_trained_runs(
    data: Path, weights: Path, tmp_path: Path, lines: list[str]
) -> None:
    compute(data, weights)
    train(train_config(data, tmp_path / "run", epochs=1), Worker())
    assert lines == [f"audio features in {data}/features are not used: small is trained here"]


def test_only_the_first_rank_tells(
    data: Path, weights: Path, tmp_path: Path, lines: list[str]
) -> None:
    compute(data, weights)
    config = config_of(data, tmp_path / "run", weights, epochs=1)
    train(config, Worker(rank=1, world_size=2))
    assert lines == []


def test_a_row_of_another_clip_is_refused(data: Path, weights: Path) -> None:
    manifest = compute(data, weights)
    config = model_config(audio_network="tones", audio_weights=str(weights))
    system: AvsSystem = build_system(config)
    manifests = {str(data): read_manifest(str(data))}
    found, _ = find_features(manifests, network="tones", audio=system.audio)
    assert found is not None
    name = manifest.shards[0].name
    with pytest.raises(
        DataError, match=rf"features/tones.*{name} has another clip in row 0.*ms3/x"
    ):
        found(str(data), name, 0, "ms3/x")
