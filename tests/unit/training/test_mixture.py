"""Several prepared folders trained as one, and backbones that stay as they were loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_clips import SIZE_PX, data_config, prepare
from small_configs import model_config, train_config

from avs.config import build, dump
from avs.errors import ConfigError, DataError
from avs.media.logmel import Alignment
from avs.prepare.manifest import read_manifest
from avs.training.card import model_card
from avs.training.checkpoint import load_checkpoint
from avs.training.config import MixtureConfig
from avs.training.feed import ClipReader
from avs.training.loop import train
from avs.training.mixture import epoch_size, held_rows
from avs.training.plan import Cut, plan_epoch
from avs.training.run import Run
from avs.training.state import TrainingState, Worker


@pytest.fixture(scope="module")
def single(s4_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("single") / "prepared"
    prepare(data_config("s4", s4_root), out)
    return out


def test_folders_follow_each_other_and_each_clip_is_there_once(
    prepared: Path, single: Path
) -> None:
    alone = [ClipReader(str(folder), split="train") for folder in (prepared, single)]
    both = ClipReader([str(prepared), str(single)], split="train")
    assert len(both) == sum(map(len, alone))
    wanted = [reader.read(range(len(reader))) for reader in alone]
    found = both.read(range(len(both)))
    assert found.clip_ids == [*wanted[0].clip_ids, *wanted[1].clip_ids]
    assert torch.equal(found.masks, torch.cat([batch.masks for batch in wanted]))
    assert torch.equal(found.frames, torch.cat([batch.frames for batch in wanted]))
    assert both.categories() == [*alone[0].categories(), *alone[1].categories()]


def test_folders_of_another_kind_are_refused_with_the_key(
    prepared: Path, s4_root: Path, tmp_path: Path
) -> None:
    small = data_config("s4", s4_root, image_size_px=32)
    prepare(small, tmp_path / "small")
    folders = [str(prepared), str(tmp_path / "small")]
    with pytest.raises(DataError, match=r"small has data.image_size_px=32, 32, .* has .*=64, 64"):
        ClipReader(folders, split="train")
    assert len(ClipReader(folders, split="train", image_size_px=SIZE_PX)) > 0
    exact = replace(
        data_config("s4", s4_root),
        audio=replace(data_config("s4", s4_root).audio, alignment=Alignment.EXACT),
    )
    prepare(exact, tmp_path / "exact")
    with pytest.raises(DataError, match="alignment=exact"):
        ClipReader([str(prepared), str(tmp_path / "exact")], split="train")


def test_both_folders_are_trained_and_validated_and_the_card_names_them(
    prepared: Path, single: Path, tmp_path: Path
) -> None:
    folders = [str(prepared), str(single)]
    config = replace(
        train_config(prepared, tmp_path / "run", epochs=1), data=MixtureConfig(prepared=folders)
    )
    state = TrainingState(config, Worker())
    assert state.val_reader is not None
    counts = [len(ClipReader(folder, split="val")) for folder in folders]
    assert len(state.val_reader) == sum(counts)
    train(config, Worker())
    card = (Path(load_checkpoint(config.out).uri) / "model_card.md").read_text()
    assert all(f"prepared as {folder}" in card for folder in folders)


def test_one_folder_and_a_list_are_both_taken(tmp_path: Path) -> None:
    one: Any = build(MixtureConfig, {"prepared": "a"}, path="data")
    two: Any = build(MixtureConfig, {"prepared": ["a", "b"]}, path="data")
    assert (one.folders, two.folders) == (["a"], ["a", "b"])
    rest = {"weights": None, "feed": "threads"}
    assert dump(one.map_folders(str.upper)) == {"prepared": "A", **rest}
    assert dump(two.map_folders(str.upper)) == {"prepared": ["A", "B"], **rest}
    with pytest.raises(ConfigError, match="names a more than once"):
        MixtureConfig(prepared=["a", "b", "a"])
    with pytest.raises(ConfigError, match=r"prepared=\[\] names no folder"):
        MixtureConfig(prepared=[])


def test_an_epoch_holds_each_folder_as_often_as_its_weight_says() -> None:
    sizes, weights = [4, 6, 10], [1.0, 2.5, 0.3]
    assert epoch_size(sizes, weights) == 4 + 15 + 3
    held = [held_rows(sizes, weights, seed=1, epoch=epoch)[0] for epoch in range(1, 101)]
    assert np.array_equal(held[0], held_rows(sizes, weights, seed=1, epoch=1)[0])
    assert not np.array_equal(held[0], held_rows(sizes, weights, seed=2, epoch=1)[0])
    counts = np.array([np.bincount(rows, minlength=20) for rows in held])
    assert (counts[:, :4] == 1).all()
    assert set(counts[:, 4:10].ravel()) == {2, 3}
    assert set(counts[:, 10:].ravel()) == {0, 1}
    assert (counts[:, 4:10].sum(axis=1) == 15).all()
    # over many epochs no clip is left behind
    assert counts[:, 10:].mean(axis=0) == pytest.approx([0.3] * 10, abs=0.15)
    assert counts[:, 4:10].mean(axis=0) == pytest.approx([2.5] * 6, abs=0.15)


def test_a_row_that_is_held_again_counts_how_often_it_was_there() -> None:
    rows, times_before = held_rows([2, 3], [1.0, 2.0], seed=0, epoch=1)
    assert rows.tolist() == [0, 1, 2, 3, 4, 2, 3, 4]
    assert times_before.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


def test_weights_of_one_leave_the_plan_as_it_is() -> None:
    cut = Cut(num_lanes=1, batch_size=2)

    def rows(weights: list[float] | None) -> list[int]:
        planned = plan_epoch([[4], [6]], weights=weights, seed=3, epoch=2, cut=cut)
        return [int(row) for row in planned.rows.ravel()]

    assert rows([1.0, 1.0]) == rows(None)
    assert held_rows([4, 6], [1e-9, 1.0], seed=3, epoch=2)[0].size == 7  # none is left out


@pytest.mark.parametrize(
    ("weights", "why"), [([1.0], "has 1 values.*2 folders"), ([1.0, 0.0], "each above 0")]
)
def test_weights_that_do_not_fit_the_folders_are_refused(weights: list[float], why: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.weights=.*{why}"):
        MixtureConfig(prepared=["a", "b"], weights=weights)


def test_a_weighted_run_has_the_steps_of_its_epoch_and_its_card_says_how_often(
    prepared: Path, single: Path, tmp_path: Path
) -> None:
    data = MixtureConfig(prepared=[str(prepared), str(single)], weights=[0.5, 3.0])
    config = replace(train_config(prepared, tmp_path / "run", epochs=1), data=data)
    assert data.map_folders(str).weights == [0.5, 3.0]
    state = TrainingState(config, Worker())
    assert state.folder_sizes == [8, 2]
    assert state.num_steps == (4 + 6) // 2
    train(config, Worker())
    card = (Path(load_checkpoint(config.out).uri) / "model_card.md").read_text()
    assert "| trained on | 0.5 x ms3 (" in card
    assert "; 3 x s4 (" in card


def _backbone(out: str, epoch: int) -> dict[str, torch.Tensor]:
    weights = load_checkpoint(Run(out).epoch_uri(epoch)).weights
    return {k: v for k, v in weights.items() if k.startswith("segmenter.backbone.")}


@pytest.mark.parametrize("name", ["tpavi", "c3n"])
def test_a_frozen_backbone_keeps_weights_and_statistics_until_it_is_let_go(
    name: str, prepared: Path, tmp_path: Path
) -> None:
    audio = "small_classified" if name == "c3n" else "small"
    config = train_config(
        prepared, tmp_path / "run", epochs=2, frozen_backbone_epochs=1, weight_decay=0.1
    )
    config = replace(config, model=model_config(name=name, audio_network=audio))
    loaded = TrainingState(config, Worker()).system.state_dict()
    epochs: list[dict[str, torch.Tensor]] = []

    def keep(metrics: dict[str, Any]) -> None:
        epochs.append(_backbone(config.out, metrics["epoch"]))

    train(config, Worker(after_epoch=keep))
    assert all(torch.equal(value, loaded[key]) for key, value in epochs[0].items())
    moved = [key for key, value in epochs[1].items() if not torch.equal(value, loaded[key])]
    assert any(key.endswith("running_mean") for key in moved)
    assert any(key.endswith("conv1.weight") for key in moved)
    card = (Path(load_checkpoint(config.out).uri) / "model_card.md").read_text()
    assert "backbone frozen for 1 epochs" in card


def test_a_run_stopped_while_the_backbone_was_frozen_ends_as_one_that_was_not(
    prepared: Path, tmp_path: Path
) -> None:
    whole = train_config(prepared, tmp_path / "whole", epochs=3, frozen_backbone_epochs=2)
    stopped = replace(whole, out=str(tmp_path / "stopped"))
    train(whole, Worker())

    def stop(metrics: dict[str, Any]) -> None:
        if metrics["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stopped, Worker(after_epoch=stop))
    train(stopped, Worker())
    ended = [load_checkpoint(Run(run.out).epoch_uri(3)).weights for run in (whole, stopped)]
    assert all(torch.equal(value, ended[1][key]) for key, value in ended[0].items())


def test_the_card_tells_the_weights_that_a_model_has_among_its_options(
    prepared: Path, tmp_path: Path
) -> None:
    config = train_config(prepared, tmp_path / "run", epochs=1)
    model = model_config(name="ccformer", options={"bcl_weight": 0.25, "aux_weight": 0.0})
    metrics = {"epoch": 1, "val_j": None, "val_f": None}
    manifests = [read_manifest(str(prepared))]
    card = model_card(
        replace(config, model=model), metrics, manifests=manifests, audio_trained=True
    )
    assert "| loss | 1 x cross entropy + 0.25 x bcl |" in card


def test_a_step_too_small_for_a_loss_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    config = train_config(tmp_path / "absent", tmp_path / "run", batch_size=1)
    with pytest.raises(ConfigError, match=r"a forward pass has 1 clip.*train\.batch_size"):
        replace(config, model=model_config(name="ccformer", options={}))
