"""The published recipes: values of every experiment, schedule, augmentation, model card."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from small_configs import ONE_WORKER, train_config
from torch import nn

from avs.config import parse
from avs.errors import ConfigError
from avs.losses import DiceForm
from avs.models import MODELS
from avs.training.augment import augment, jitter_colours
from avs.training.batch import Batch
from avs.training.checkpoint import resolve_checkpoint
from avs.training.config import LoopConfig, Schedule, TrainConfig
from avs.training.loop import train
from avs.training.run import Run
from avs.training.state import Worker

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
RECIPES = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
AVSC_RECIPES = [name for name in RECIPES if name.startswith("avsc_")]
OF_A_PAPER = [name for name in RECIPES if name.startswith(("tpavi_", "c3n_"))]

# J and F on the test split, as the papers' tables give them.
PUBLISHED = {
    "tpavi_s4_r50": ("72.79", "84.8"),
    "tpavi_s4_pvt": ("78.74", "87.9"),
    "tpavi_ms3_r50": ("47.88", "57.8"),
    "tpavi_ms3_pvt": ("54.00", "64.5"),
    "tpavi_avss_r50": ("20.18", "25.2"),
    "tpavi_avss_pvt": ("29.77", "35.2"),
    "avsc_s4_r50": ("77.02", "85.24"),
    "avsc_s4_pvt": ("80.57", "88.19"),
    "avsc_s4_swin": ("81.3", "88.6"),
    "avsc_ms3_r50": ("49.58", "61.51"),
    "avsc_ms3_pvt": ("58.22", "65.10"),
    "avsc_ms3_swin": ("59.5", "65.7"),
}
BACKBONES = {"r50": "resnet50", "pvt": "pvt_v2_b5", "swin": "swin_base_patch4_window7_224"}
DROP_PATH = {"r50": 0.0, "pvt": 0.1, "swin": 0.2}


def recipe(name: str, *overrides: str) -> TrainConfig:
    """The run that ``jobs/train.py experiment=NAME`` starts, missing values made up."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("train", overrides=[f"experiment={name}", *overrides])
    OmegaConf.set_struct(config, False)
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, "dummy")
    return parse(config, TrainConfig)


def loop_config(**changes: Any) -> LoopConfig:
    return train_config(Path("data"), Path("run"), **changes).train


def batch(num_clips: int = 2, num_frames: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    flags = torch.ones(num_clips, num_frames, dtype=torch.bool)
    return Batch(
        clip_ids=[str(i) for i in range(num_clips)],
        categories=[() for _ in range(num_clips)],
        frames=noise(num_clips, num_frames, 3, 16, 16),
        log_mel=torch.zeros(num_clips, num_frames, 1, 96, 64),
        masks=noise(num_clips, num_frames, 16, 16),
        mask_valid=flags,
        frame_valid=flags,
    )


def test_the_published_recipes_are_there() -> None:
    c3n = {f"c3n_{data}_{net}" for data in ("s4", "ms3") for net in ("pvt", "swin")}
    avss = {f"avsc_avss_{net}" for net in BACKBONES}
    assert {*OF_A_PAPER, *AVSC_RECIPES} == {*PUBLISHED, *c3n, "c3n_ms3_pvt_beats", *avss}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_tells_its_published_score_or_that_there_is_none(name: str) -> None:
    text = (CONFIGS / "experiment" / f"{name}.yaml").read_text()
    comments = " ".join(line for line in text.splitlines() if line.startswith("#"))
    found = re.findall(r"Published: J ([\d.]+), F ([\d.]+)", comments)
    assert found == ([PUBLISHED[name]] if name in PUBLISHED else [])
    assert found or "no published J and F" in comments


@pytest.mark.parametrize("name", OF_A_PAPER)
def test_a_recipe_has_the_values_of_its_paper(name: str) -> None:
    model, data, net = name.split("_")[:3]
    config = recipe(name)
    loop, loss = config.train, config.loss
    assert config.model.name == model
    assert config.model.backbone.split(".")[0] == BACKBONES[net]
    assert config.model.options["drop_path"] == DROP_PATH[net]
    assert (config.model.backbone_weights, config.model.audio_weights) == ("timm", "dummy")
    c3n_sound = "beats" if name.endswith("beats") else "vggish_classified"
    assert config.model.audio_network == ("vggish" if model == "tpavi" else c3n_sound)
    assert (loop.learning_rate, loop.weight_decay, loop.image_size_px) == (1e-4, 0.0, 224)
    num_clips = loop.batch_size * config.scale.num_workers
    if model == "tpavi":
        assert loop.epochs == {"s4": 15, "ms3": 30, "avss": 60}[data]
        assert (num_clips, loop.schedule, config.seed) == (4, Schedule.CONSTANT, 123)
        assert (loop.flip, loop.color_jitter, loop.sync_batch_norm) == (False, None, False)
        weights = (1.0, 0.0, 0.0 if data == "s4" else 0.5)
        assert (loss.bce_weight, loss.dice_weight, loss.mapping_weight) == weights
        semantic = {"audio_bias": False, "temporal_group": 5} if data == "avss" else {}
        assert {k: v for k, v in config.model.options.items() if k in semantic} == semantic
    else:
        assert (loop.epochs, num_clips) == {"s4": (20, 8), "ms3": (60, 4)}[data]
        assert (loop.flip, loop.color_jitter) == (True, (0.4, 0.4, 0.4, 0.1))
        assert (loop.sync_batch_norm, config.seed) == (True, 1234)
        assert loss.bce_weight == (1.5 if name.endswith("beats") else 1.0)
        assert (loss.dice_weight, loss.dice_form) == (1.0, DiceForm.C3N)
        schedule = (loop.schedule, loop.final_learning_rate, loop.schedule_epochs)
        linear, constant = (Schedule.LINEAR, 1e-5, 15), (Schedule.CONSTANT, None, None)
        assert schedule == (linear if data == "s4" else constant)


@pytest.mark.parametrize("name", AVSC_RECIPES)
def test_avsc_recipes_have_the_values_of_the_reconstruction(name: str) -> None:
    _, data, net = name.split("_")
    config = recipe(name)
    loop, options = config.train, config.model.options
    assert config.model.backbone.split(".")[0] == BACKBONES[net]
    assert options["drop_path"] == DROP_PATH[net]
    sizes = ("num_queries", "encoder_layers", "decoder_layers")
    assert [options[key] for key in sizes] == [100, 6, 9]
    assert (loop.learning_rate, loop.backbone_learning_rate_factor) == (1e-4, 0.1)
    assert (loop.weight_decay, loop.image_size_px) == (0.05, 224)
    assert loop.batch_size * config.scale.num_workers == 8
    assert loop.epochs == {"s4": 30, "ms3": 100, "avss": 60}[data]
    assert config.loss.dice_weight == (0.0 if data == "avss" else 1.0)
    text = (CONFIGS / "experiment" / f"{name}.yaml").read_text()
    assert "reconstruction" in text
    assert ("no result of this code" in text) == (name in PUBLISHED)


def test_a_recipe_can_run_on_other_machines() -> None:
    config = recipe("tpavi_s4_pvt", "scale=laptop", "scale.num_workers=1", "train.epochs=1")
    assert (config.scale.gpus_per_worker, config.scale.num_workers) == (0, 1)
    with pytest.raises(ConfigError, match=r"sync_batch_norm=true needs GPUs.*scale=gpu"):
        recipe("c3n_ms3_pvt", "scale=laptop")


def test_linear_falls_epoch_by_epoch_and_stays(prepared: Path, tmp_path: Path) -> None:
    config = train_config(
        prepared,
        tmp_path / "run",
        epochs=4,
        learning_rate=1e-3,
        schedule=Schedule.LINEAR,
        final_learning_rate=1e-4,
        schedule_epochs=2,
    )
    rates = [m["learning_rate"] for m in train(config, Worker())]
    assert rates == pytest.approx([1e-3, 5.5e-4, 1e-4, 1e-4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": Schedule.LINEAR, "schedule_epochs": 3}, "final_learning_rate=None"),
        ({"schedule": Schedule.LINEAR, "final_learning_rate": 1e-5}, "schedule_epochs=None"),
        ({"final_learning_rate": 1e-5}, r"final_learning_rate=1e-05.*schedule=constant"),
        (
            {"schedule": Schedule.LINEAR, "final_learning_rate": 1e-5, "schedule_epochs": 0},
            "schedule_epochs=0 must be above 0",
        ),
        ({"color_jitter": (0.4, 0.4)}, r"color_jitter=\[0.4, 0.4\]"),
        ({"color_jitter": (0.4, 0.4, 0.4, 0.6)}, "hue up to 0.5"),
    ],
)
def test_bad_values_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loop_config(**changes)


def test_every_frame_gets_colours_of_its_own_and_masks_stay() -> None:
    before, after = batch(), batch()
    for clip in (before, after):
        clip.frames[:] = clip.frames[0, 0].clone()  # all frames alike
    state = torch.get_rng_state()
    jitter_colours(after, (0.4, 0.4, 0.4, 0.1), rng=np.random.default_rng(3))
    frames = after.frames.flatten(0, 1)
    assert len({tuple(frame.flatten().tolist()) for frame in frames}) == len(frames)
    assert torch.equal(after.masks, before.masks)
    assert torch.equal(torch.get_rng_state(), state)


def test_strengths_bound_what_is_changed() -> None:
    before, after = batch(num_clips=20), batch(num_clips=20)
    for clips in (before, after):
        clips.frames[:] = 100
    jitter_colours(after, (0.4, 0.0, 0.0, 0.0), rng=np.random.default_rng(3))
    values = after.frames.float().mean(dim=(2, 3, 4)).flatten()
    assert 60 <= values.min() < 70
    assert 130 < values.max() <= 140
    untouched = batch()
    jitter_colours(untouched, (0.0, 0.0, 0.0, 0.0), rng=np.random.default_rng(3))
    assert (untouched.frames.int() - batch().frames.int()).abs().max() <= 1  # hue: there and back


def test_the_seed_decides_every_draw() -> None:
    loop = loop_config(flip=True, color_jitter=(0.4, 0.4, 0.4, 0.1))
    batches = [batch() for _ in range(3)]
    for changed, seed in zip(batches, ([1, 2], [1, 2], [1, 3]), strict=True):
        augment(changed, loop=loop, seed=seed)
    assert torch.equal(batches[0].frames, batches[1].frames)
    assert not torch.equal(batches[0].frames, batches[2].frames)
    plain = batch()
    augment(plain, loop=loop_config(flip=False), seed=[1, 2])
    assert torch.equal(plain.frames, batch().frames)


def test_a_resumed_run_changes_the_same_frames(
    prepared: Path, run_folder: Path, tmp_path: Path
) -> None:
    whole = train_config(prepared, tmp_path / "whole", color_jitter=(0.4, 0.4, 0.4, 0.1))
    stopped = replace(whole, out=str(tmp_path / "stopped"))

    def stop(metrics: dict[str, Any]) -> None:
        if metrics["epoch"] == 1:
            raise KeyboardInterrupt

    losses = [m["loss"] for m in train(whole, Worker())]
    with pytest.raises(KeyboardInterrupt):
        train(stopped, Worker(after_epoch=stop))
    assert [m["loss"] for m in train(stopped, Worker())] == losses
    assert [m["loss"] for m in Run(str(run_folder)).read_metrics()] != losses  # without jitter


@pytest.mark.parametrize("synced", [False, True])
def test_batch_norm_is_shared_where_asked_for(synced: bool, prepared: Path, tmp_path: Path) -> None:
    seen: list[Any] = []

    def stop(system: nn.Module) -> nn.Module:
        seen.append(system)
        raise KeyboardInterrupt

    gpu = replace(ONE_WORKER, gpus_per_worker=1)
    config = train_config(prepared, tmp_path / "run", scale=gpu, sync_batch_norm=synced)
    with pytest.raises(KeyboardInterrupt):
        train(config, Worker(wrap=stop))
    shared = [m for m in seen[0].segmenter.modules() if isinstance(m, nn.SyncBatchNorm)]
    plain = [m for m in seen[0].segmenter.modules() if isinstance(m, nn.BatchNorm2d)]
    assert (bool(shared), bool(plain)) == (synced, not synced)
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in seen[0].audio.modules())


def test_the_card_tells_published_reconstructed_and_the_run_apart(
    prepared: Path, tmp_path: Path
) -> None:
    config = train_config(
        prepared, tmp_path / "run", epochs=1, color_jitter=(0.4, 0.4, 0.4, 0.1), flip=False
    )
    train(config, Worker())
    card = Path(resolve_checkpoint(str(Run(config.out).out)), "model_card.md").read_text()
    origin = MODELS["tpavi"].origin
    parts = re.split(r"^## ", card, flags=re.MULTILINE)
    assert [part.splitlines()[0] for part in parts[1:]] == [
        "Published",
        "Reconstructed",
        "This run",
    ]
    assert origin.published in parts[1]
    assert origin.reconstructed in parts[2]
    for fact in (
        "ms3 (8 train, 3 val clips",
        config.data.prepared,
        "2 clips (2 on each of 1 workers)",
        "Adam, learning rate 0.003 constant, fp32",
        "colours of each frame by up to [0.4, 0.4, 0.4, 0.1]",
        "| loss | 1 x cross entropy |",
        "| audio network | trained |",
        "backbone: random; audio: random",
    ):
        assert fact in parts[3], fact
