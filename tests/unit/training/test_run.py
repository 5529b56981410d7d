"""A run folder: who may go on with it, and what it points to after any interruption."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_configs import train_config

from avs import storage
from avs.errors import ConfigError
from avs.training.checkpoint import save_checkpoint
from avs.training.clip_spec import ClipSpec
from avs.training.config import TrainConfig
from avs.training.run import Run, best_epoch


def _history(*scores: float | None) -> list[dict[str, Any]]:
    return [
        {"epoch": k, "loss": 1.0 / k, "val_j": score, "val_f": score}
        for k, score in enumerate(scores, 1)
    ]


def _commit(run: Run, history: list[dict[str, Any]], **options: Any) -> None:
    _save(run.epoch_uri(history[-1]["epoch"]), history)
    run.commit(history, **options)


def _save(uri: str, history: list[dict[str, Any]]) -> None:
    save_checkpoint(
        uri,
        weights={"x": torch.ones(1)},
        config={},
        clip=ClipSpec(num_frames=5, image_size_px=64, class_names=("a", "b")),
        metrics=history[-1] if history else {},
        card="",
        trainer_state={"history": history},
    )


def _kept(out: str) -> set[str]:
    return {f.path.split("/")[0] for f in storage.list_files(storage.join(out, "checkpoints"))}


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return train_config(tmp_path / "prepared", tmp_path / "run")


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ((0.2, 0.5, 0.4), 2),
        ((0.5, 0.5), 1),
        ((None, 0.1, None), 2),
        ((None, None, None), 3),
        ((None, None), 2),
        ((0.0,), 1),
    ],
)
def test_the_best_epoch_has_the_highest_j_and_is_the_last_without_one(
    scores: tuple[float | None, ...], best: int
) -> None:
    assert best_epoch(_history(*scores)) == best


def test_of_epochs_that_show_nothing_yet_the_one_with_the_higher_f_is_best() -> None:
    history = _history(0.0, 0.0, 0.0)
    for epoch, f in zip(history, (0.08, 0.11, 0.11), strict=True):
        epoch["val_f"] = f
    assert best_epoch(history) == 2


def test_a_folder_is_claimed_again_by_the_same_configuration(config: TrainConfig) -> None:
    run = Run(config.out)
    run.claim(config)
    run.claim(config)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 6}, "seed is 6, there 5"),
        (
            {"model": {"backbone": "test_convnext"}},
            "model.backbone is 'test_convnext', there 'test_resnet'",
        ),
        (
            {"model": {"options": {"fusion_width": 8}}},
            "model.options.fusion_width is 8, there 16",
        ),
        ({"model": {"options": {}}}, "model.options.fusion_width is None, there 16"),
        ({"train": {"batch_size": 4}}, "train.batch_size is 4, there 2"),
        ({"train": {"learning_rate": 1.0}}, "train.learning_rate is 1.0, there 0.003"),
        ({"loss": {"dice_weight": 1.0}}, "loss.dice_weight is 1.0, there 0.0"),
        ({"data": {"prepared": "s3://other"}}, "data.prepared is 's3://other', there '/"),
    ],
)
def test_a_folder_of_another_configuration_is_refused_by_key_with_both_values(
    config: TrainConfig, change: dict[str, Any], told: str
) -> None:
    run = Run(config.out)
    run.claim(config)
    storage.write_json(storage.join(config.out, "last.json"), {"checkpoint": "an epoch"})
    before = storage.read_bytes(storage.join(config.out, "config.yaml"))
    with pytest.raises(ConfigError, match=rf"out=.*another configuration: {re.escape(told)}"):
        run.claim(_changed(config, change))
    assert storage.read_bytes(storage.join(config.out, "config.yaml")) == before


def test_a_run_begun_before_a_key_existed_goes_on_unless_the_key_is_used(
    config: TrainConfig,
) -> None:
    run, uri = Run(config.out), storage.join(config.out, "config.yaml")
    run.claim(config)
    begun = yaml.safe_load(storage.read_bytes(uri))
    del begun["train"]["frozen_backbone_epochs"]
    storage.write_bytes(uri, yaml.safe_dump(begun).encode())
    storage.write_json(storage.join(config.out, "last.json"), {"checkpoint": "an epoch"})
    with pytest.raises(ConfigError, match="frozen_backbone_epochs"):
        run.claim(_changed(config, {"train": {"frozen_backbone_epochs": 1}}))
    run.claim(config)


def test_a_folder_where_nothing_was_trained_takes_a_mended_configuration(
    config: TrainConfig,
) -> None:
    Run(config.out).claim(config)
    Run(config.out).claim(_changed(config, {"seed": 6}))
    assert yaml.safe_load(storage.read_bytes(storage.join(config.out, "config.yaml")))["seed"] == 6


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"epochs": 9}},
        {"train": {"num_threads": 4}},
        {"scale": {"num_workers": 2}},
        {"inference": {"windows_per_forward": 8}},
        {"data": {"feed": "ray"}},
        {"checkpoint": {"every_steps": 2, "keep_best": 3}},
        {"logging": {"tensorboard": True, "mlflow": "http://there"}},
    ],
)
def test_what_may_differ_between_two_starts_does(
    config: TrainConfig, change: dict[str, Any]
) -> None:
    run = Run(config.out)
    run.claim(config)
    run.claim(_changed(config, change))


def _changed(config: TrainConfig, change: dict[str, Any]) -> TrainConfig:
    values = {
        key: replace(getattr(config, key), **value) if isinstance(value, dict) else value
        for key, value in change.items()
    }
    return replace(config, **values)


def test_what_a_killed_writer_left_in_a_checkpoint_is_gone_when_it_is_written_again(
    tmp_path: Path,
) -> None:
    run = Run(str(tmp_path))
    folder = tmp_path / "checkpoints" / "epoch-0001"
    folder.mkdir(parents=True)
    half = storage.temporary_name(str(folder / "weights.safetensors"))
    half.write_bytes(b"half")
    _commit(run, _history(0.5))
    assert not half.exists()


def test_a_commit_keeps_the_best_and_the_last_checkpoint(place: str) -> None:
    run = Run(place)
    assert run.last_state() is None
    kept = []
    scores = (0.2, 0.6, 0.3, 0.4, 0.7)
    for epoch in range(1, 6):
        _commit(run, _history(*scores[:epoch]))
        kept.append(sorted(int(name[-4:]) for name in _kept(place)))
        last = run.last_state()
        assert last is not None
        assert last[0] == run.epoch_uri(epoch)
        assert len(last[1]["history"]) == epoch
    assert kept == [[1], [2], [2, 3], [2, 4], [5]]
    assert storage.read_json(storage.join(place, "best.json")) == {
        "checkpoint": "checkpoints/epoch-0005",
        "val_j": 0.7,
    }


def test_as_many_of_the_best_are_kept_as_asked_for(tmp_path: Path) -> None:
    run, kept = Run(str(tmp_path)), []
    scores = (0.2, 0.6, 0.3, 0.5, 0.1)
    for epoch in range(1, 6):
        _commit(run, _history(*scores[:epoch]), keep_best=2)
        kept.append(sorted(int(name[-4:]) for name in _kept(str(tmp_path))))
    assert kept == [[1], [1, 2], [2, 3], [2, 4], [2, 4, 5]]


def test_of_many_changes_the_first_are_told_and_the_others_counted(config: TrainConfig) -> None:
    run = Run(config.out)
    run.claim(config)
    storage.write_json(storage.join(config.out, "last.json"), {"checkpoint": "an epoch"})
    loop = {"batch_size": 4, "flip": False, "weight_decay": 1.0}
    with pytest.raises(ConfigError, match=r"seed is 6.*batch_size is 4.*flip.*; and 1 more keys"):
        run.claim(_changed(config, {"seed": 6, "train": loop}))


def test_a_checkpoint_inside_an_epoch_counts_until_the_next_one(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    history: list[dict[str, Any]] = []
    for uri, told in ((run.step_uri(1, 2), 0), (run.step_uri(1, 4), 0), (run.epoch_uri(1), 1)):
        if told:
            history = _history(0.1)
        _save(uri, history)
        run.commit(history, uri=uri)
        assert run.last_uri() == uri
        assert _kept(str(tmp_path)) == {uri.rpartition("/")[2]}
        assert (tmp_path / "best.json").exists() == bool(told)


def test_metrics_hold_one_line_an_epoch_whatever_was_lost(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    assert run.read_metrics() == []
    history = _history(0.1, 0.2)
    _commit(run, history)
    assert run.read_metrics() == history
    for damage in ("", '{"epoch": 1}\n{"epo', "{}\n" * 5):
        (tmp_path / "metrics.jsonl").write_text(damage)
        (tmp_path / "best.json").unlink()
        state = run.last_state()
        assert state is not None
        run.repair(state[1]["history"])
        assert run.read_metrics() == history
        assert storage.read_json(str(tmp_path / "best.json"))["val_j"] == 0.2


def test_a_kill_between_checkpoint_and_commit_leaves_the_epoch_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(str(tmp_path))
    _commit(run, _history(0.1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            _commit(run, _history(0.1, 0.2))
    state = run.last_state()
    assert state is not None
    assert state[0] == run.epoch_uri(1)
    _commit(run, _history(0.1, 0.2))
    assert _kept(str(tmp_path)) == {"epoch-0002"}


def test_the_last_progress_line_is_kept_and_not_written_too_often(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    assert run.read_progress() is None
    run.report_progress("step 1", epoch=1, share=0.1)
    run.report_progress("step 2", epoch=1, share=0.2)
    assert _line(tmp_path) == "step 1"
    run.report_progress("step 3", every_s=0, epoch=2, share=0.5)
    assert _line(tmp_path) == "step 3"


def test_a_message_is_kept_beside_the_progress_that_follows(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    run.report_progress("starting from there", every_s=0)
    run.report_progress("step 1", every_s=0, epoch=1, share=0.1)
    left = run.read_progress()
    assert left is not None
    message = {"text": "starting from there", "after": 0}
    assert (left["line"], left["told"]) == ("step 1", [message])
    assert (left["epoch"], left["share"]) == (1, 0.1)


def _line(out: Path) -> str:
    left = Run(str(out)).read_progress()
    assert left is not None
    return str(left["line"])
