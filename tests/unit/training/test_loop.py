"""Training: it learns, and an interrupted run ends where an uninterrupted one does."""

from __future__ import annotations

import json
import math
import shutil
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_clips import data_config, prepare, random_clip, write_png
from small_configs import MEASURED, train_config

from avs.errors import LeaseError
from avs.inference.predictor import Predictor
from avs.media.masks import voc_palette
from avs.prepare.manifest import read_manifest, write_manifest
from avs.schema import write_clips
from avs.training import augment
from avs.training.batch import Batch
from avs.training.checkpoint import load_checkpoint
from avs.training.config import Precision, Schedule, TrainConfig
from avs.training.feed import ClipReader
from avs.training.loop import train
from avs.training.run import Run
from avs.training.state import Worker


def _weights(out: str, epoch: int) -> dict[str, torch.Tensor]:
    return load_checkpoint(Run(out).epoch_uri(epoch)).weights


def _without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in m.items() if k not in MEASURED} for m in history]


def test_the_loss_falls_on_one_batch(prepared: Path, tmp_path: Path) -> None:
    config = train_config(
        prepared, tmp_path / "run", epochs=6, batch_size=8, flip=False, learning_rate=5e-3
    )
    losses = [m["loss"] for m in train(config, Worker())]
    assert losses[-1] < 0.75 * losses[0]


def test_a_run_leaves_a_line_an_epoch_and_a_checkpoint_that_predicts(
    run_folder: Path, prepared: Path
) -> None:
    lines = [json.loads(s) for s in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [m["epoch"] for m in lines] == [1, 2]
    for metrics in lines:
        assert metrics["loss"] > 0
        assert 0 <= metrics["val_j"] <= 1
        assert 0 <= metrics["val_f"] <= 1
        assert 0 < metrics["validation_s"] < metrics["seconds"]
        assert 50e6 < metrics["peak_memory_bytes"] < 1e12
        assert metrics["peak_gpu_memory_bytes"] is None
        assert (metrics["workers"], metrics["device"]) == (1, "CPU")
    form = read_manifest(str(prepared)).format
    predictor = Predictor.from_checkpoint(str(run_folder))
    assert predictor.clip.class_names == form.class_names
    assert (predictor.clip.num_frames, predictor.clip.image_size_px) == (5, form.height_px)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(prepared: Path, tmp_path: Path) -> None:
    whole = train_config(prepared, tmp_path / "whole", schedule=Schedule.COSINE)
    stopped = replace(whole, out=str(tmp_path / "stopped"))

    def stop(metrics: dict[str, Any]) -> None:
        if metrics["epoch"] == 1:
            raise KeyboardInterrupt

    history = train(whole, Worker())
    wanted = [3e-3 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in (3, 7)]
    assert [m["learning_rate"] for m in history] == pytest.approx(wanted)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, Worker(after_epoch=stop))
    assert len(Run(stopped.out).read_metrics()) == 1
    torch.rand(7)  # whatever happened to torch's random state in between
    resumed = train(stopped, Worker())
    assert _without_times(resumed) == _without_times(history)
    assert _without_times(Run(stopped.out).read_metrics()) == _without_times(history)
    for name, value in _weights(whole.out, 2).items():
        assert torch.equal(_weights(stopped.out, 2)[name], value), name


def test_a_finished_run_is_not_trained_again(run_folder: Path, prepared: Path) -> None:
    before = (run_folder / "metrics.jsonl").read_bytes()

    def trained(_: dict[str, Any]) -> None:
        pytest.fail("an epoch was trained")

    train(train_config(prepared, run_folder), Worker(after_epoch=trained))
    assert (run_folder / "metrics.jsonl").read_bytes() == before


def test_more_epochs_go_on_from_the_last_one(
    run_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(run_folder, out)
    history = train(train_config(prepared, out, epochs=3), Worker())
    assert [m["epoch"] for m in history] == [1, 2, 3]


def test_a_run_that_lost_its_lease_commits_nothing(prepared: Path, tmp_path: Path) -> None:
    def lost() -> None:
        raise LeaseError("lost")

    config = train_config(prepared, tmp_path / "run", epochs=1)
    with pytest.raises(LeaseError):
        train(config, Worker(check_lease=lost))
    assert Run(config.out).last_state() is None
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_rank_other_than_the_first_writes_nothing(prepared: Path, tmp_path: Path) -> None:
    config = train_config(prepared, tmp_path / "run", epochs=1)
    train(config, Worker(rank=1, world_size=2))
    assert not (tmp_path / "run").exists()


def test_frames_and_masks_of_a_clip_are_mirrored_together_and_others_not(prepared: Path) -> None:
    reader = ClipReader(str(prepared), split="train")
    before, after = reader.read([0, 1, 2]), reader.read([0, 1, 2])
    augment.flip_clips(after, torch.tensor([True, False, True]))
    for slot, flipped in enumerate([True, False, True]):
        for name in ("frames", "masks"):
            old, new = getattr(before, name)[slot], getattr(after, name)[slot]
            assert torch.equal(new, old.flip(-1) if flipped else old)
    assert not torch.equal(before.frames, after.frames)


def test_about_half_of_the_clips_are_mirrored_and_the_same_ones_every_time(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[list[bool]] = []

    def note(_: Batch, flags: torch.Tensor) -> None:
        chosen.append(flags.tolist())

    monkeypatch.setattr(augment, "flip_clips", note)
    runs = []
    for name in ("a", "b"):
        chosen.clear()
        train(train_config(prepared, tmp_path / name, epochs=2), Worker())
        runs.append([flag for flags in chosen for flag in flags])
    assert runs[0] == runs[1]
    assert 3 <= sum(runs[0]) <= 13
    chosen.clear()
    train(train_config(prepared, tmp_path / "c", epochs=1, flip=False), Worker())
    assert chosen == []


def test_data_without_a_val_split_trains_to_its_last_epoch(prepared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train only"
    shutil.copytree(prepared, folder)
    manifest = read_manifest(str(prepared))
    manifest.shards = [s for s in manifest.shards if s.split == "train"]
    write_manifest(str(folder), manifest)
    config = train_config(folder, tmp_path / "run")
    history = train(config, Worker())
    assert [m["val_j"] for m in history] == [None, None]
    assert load_checkpoint(config.out).metrics["epoch"] == 2


@pytest.fixture
def semantic(tmp_path: Path) -> Path:
    """Two train clips and a val clip in the AVSS layout, 71 classes, T = 10, prepared."""
    root, out = tmp_path / "avss", tmp_path / "avss prepared"
    rows = ["uid,a_obj,split,label", "a,dog,train,v2", "b,dog,train,v1m", "c,dog,val,v1m"]
    (root / "x").mkdir(parents=True)
    (root / "metadata.csv").write_text("\n".join(rows))
    names = ["background", *(f"class {k}" for k in range(1, 71))]
    (root / "label2idx.json").write_text(json.dumps({n: k for k, n in enumerate(names)}))
    for place, count in (("v2/a", 10), ("v1m/b", 5), ("v1m/c", 5)):
        _write_avss(root / place, count)
    prepare(data_config("avss", root, num_frames=10), out)
    return out


def _write_avss(folder: Path, count: int) -> None:
    index = np.zeros((64, 64), np.uint8)
    index[16:48, 16:48] = 70
    for k in range(count):
        write_png(folder / f"frames/{k}.jpg", voc_palette(71)[index])
        write_png(folder / f"labels_semantic/{k}.png", index)
    with wave.open(str(folder / "audio.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        noise = np.random.default_rng(0).normal(size=16000 * count) * 3000
        file.writeframes(noise.astype("<i2").tobytes())


def test_semantic_data_trains_a_class_a_pixel(semantic: Path, tmp_path: Path) -> None:
    config = train_config(semantic, tmp_path / "run", epochs=3, learning_rate=1e-2)
    history = train(config, Worker())
    assert history[-1]["loss"] < history[0]["loss"]
    assert 0 <= history[-1]["val_j"] <= 1
    found = load_checkpoint(config.out)
    assert found.model.num_classes == 71
    assert found.clip.audio_pad == "zero"
    assert found.clip.num_frames == 10
    logits = Predictor(found).logits(
        np.zeros((1, 10, 64, 64, 3), np.uint8),
        np.zeros((1, 10, 1, 96, 64), np.float32),
        np.arange(10)[None] < 5,
    )
    assert logits.shape == (1, 10, 71, 64, 64)


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_no_checkpoint(
    prepared: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "nan"
    shutil.copytree(prepared, folder)
    manifest = read_manifest(str(prepared))
    shard = manifest.split_shards("train")[0]
    broken = np.full((5, 1, 96, 64), np.nan, np.float32)
    clips = [
        random_clip(f"x/{k}", form=manifest.format, log_mel=broken) for k in range(shard.num_rows)
    ]
    write_clips(clips, str(folder / "shards" / shard.name), manifest.format)
    config = train_config(folder, tmp_path / "run", epochs=1)
    with pytest.raises(FloatingPointError, match=r"the loss is nan.*lower train\.learning_rate"):
        train(config, Worker())
    assert Run(config.out).last_state() is None


def test_frames_are_trained_at_the_size_that_is_asked_for(prepared: Path, tmp_path: Path) -> None:
    config = train_config(prepared, tmp_path / "run", epochs=1, image_size_px=32)
    train(config, Worker())
    assert load_checkpoint(config.out).clip.image_size_px == 32


def test_bfloat16_trains_near_float32(prepared: Path, tmp_path: Path) -> None:
    def loss(precision: Precision) -> float:
        config: TrainConfig = train_config(
            prepared, tmp_path / precision.value, epochs=1, precision=precision
        )
        return float(train(config, Worker())[0]["loss"])

    full, half = loss(Precision.FP32), loss(Precision.BF16)
    assert half != full
    assert half == pytest.approx(full, rel=0.05)
