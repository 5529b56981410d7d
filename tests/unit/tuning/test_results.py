"""What a sweep leaves: a configuration that is the best trial, its checkpoint, the command."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from made_sweeps import RATE, WIDTH, tune_config, write_epochs

from avs import storage
from avs.config import parse
from avs.errors import AvsError
from avs.training import TrainConfig
from avs.training.checkpoint import load_checkpoint, resolve_checkpoint
from avs.tuning import results
from avs.tuning.latency import NUM_FORWARDS, measure_latency
from avs.tuning.plan import SweepPlan
from avs.tuning.results import train_command, write_results, write_tables


def done(tmp_path: Path, checkpoint: Path, **search: Any) -> tuple[Any, SweepPlan]:
    """A sweep of three trials of which 0001 is the best."""
    config = tune_config(tmp_path, **search)
    plan = SweepPlan(config)
    for scores in ([0.3, 0.5], [0.7, 0.6], [0.4, 0.4]):
        trial = plan.next()
        assert trial is not None
        write_epochs(config.out, trial.name, scores)
        folder = tmp_path / "sweep/trials" / trial.name
        shutil.copytree(checkpoint, folder / "checkpoints/epoch-0001")
        pointer = {"checkpoint": "checkpoints/epoch-0001"}
        (folder / "best.json").write_text(json.dumps(pointer))
        plan.end(trial.name)
    return config, plan


def test_the_best_trial_becomes_a_training(tmp_path: Path, tiny_checkpoint: Path) -> None:
    config, plan = done(tmp_path / "a b", tiny_checkpoint)
    best = write_results(config, plan)
    assert (best.name, best.val_j) == ("0001", 0.7)
    out = tmp_path / "a b" / "sweep"
    table = json.loads((out / "trials.json").read_text())
    assert table["best"] == table["trials"][1] == best.row()
    words = shlex.split(table["command"])
    assert words[:5] == ["python", "jobs/train.py", "--config-dir", str(out), "--config-name"]
    with initialize_config_dir(str(out), version_base="1.3"):
        trained = parse(compose(words[5], words[6:]), TrainConfig)
    assert trained == config.with_values(best.values, out=str(out / "best"))
    assert trained.train.learning_rate == best.values[RATE]
    assert trained.model.options["fusion_width"] == best.values[WIDTH]
    assert resolve_checkpoint(str(out)) == str(out / "checkpoint")
    assert load_checkpoint(str(out)).model.name == "tpavi"
    assert "0001" in (out / "report.html").read_text()


def test_a_sweep_has_a_whole_best_checkpoint_while_its_copy_is_replaced(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, plan = done(tmp_path, tiny_checkpoint)
    write_results(config, plan)

    def killed(source: str, target: str) -> None:
        storage.remove(target)
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "copy_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        write_results(config, plan)
    assert load_checkpoint(config.out).uri.endswith("trials/0001/checkpoints/epoch-0001")


def test_in_a_bucket_the_command_fetches_the_configuration_first() -> None:
    command = train_command("s3://bucket/a sweep")
    first, _, second = command.partition(" && ")
    assert shlex.split(first) == ["aws", "s3", "cp", "s3://bucket/a sweep/best.yaml", "best.yaml"]
    assert shlex.split(second)[2:] == [
        *("--config-dir", ".", "--config-name", "best"),
        'out="s3://bucket/a sweep/best"',
    ]


def test_the_trials_of_the_front_can_be_trained_too(tmp_path: Path, tiny_checkpoint: Path) -> None:
    config, plan = done(tmp_path, tiny_checkpoint)
    for record, latency_s in zip(plan.records, (0.01, 0.02, 0.03), strict=True):
        record.latency_s = latency_s
    (tmp_path / "sweep/front").mkdir()
    (tmp_path / "sweep/front/0002.yaml").write_text("of an earlier end")
    write_results(config, plan)
    front = tmp_path / "sweep" / "front"
    assert sorted(path.name for path in front.iterdir()) == ["0000.yaml", "0001.yaml"]
    with initialize_config_dir(str(front), version_base="1.3"):
        trained = parse(compose("0000", ["out=o"]), TrainConfig)
    assert trained == config.with_values(plan.records[0].values, out="o")


def test_where_every_trial_failed_the_first_reason_is_told(tmp_path: Path) -> None:
    config = tune_config(tmp_path)
    plan = SweepPlan(config)
    plan.next()
    plan.next()
    with pytest.raises(AvsError, match="no best trial, none has done an epoch: raise"):
        write_results(config, plan)
    plan.fail("0000", "the backbone is unknown", final=True)
    plan.fail("0001", "other", final=True)
    with pytest.raises(AvsError, match="every trial failed: the backbone is unknown"):
        write_results(config, plan)
    assert "the backbone is unknown" in (tmp_path / "sweep/report.html").read_text()


def test_tables_of_a_sweep_that_goes_on_have_what_is_there(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    config, plan = done(tmp_path, tiny_checkpoint, num_trials=4)
    plan.next()
    write_tables(config, plan)
    table = json.loads((tmp_path / "sweep/trials.json").read_text())
    assert [trial["status"] for trial in table["trials"]] == [*["finished"] * 3, "unfinished"]
    assert table["trials"][3]["val_j"] is None
    assert table["command"] is None  # there is no best.yaml yet
    assert load_checkpoint(table["checkpoint"]).model.name == "tpavi"
    assert not (tmp_path / "sweep/best.yaml").exists()


def test_latency_is_measured_once_on_the_best_checkpoint(
    tmp_path: Path, prepared: Path, run_folder: Path
) -> None:
    config = tune_config(tmp_path, base={"data": {"prepared": str(prepared)}})
    shutil.copytree(run_folder, tmp_path / "run")
    own = config.with_values({}, out=str(tmp_path / "run"))
    seconds = measure_latency(own)
    assert 0 < seconds < 10
    written = json.loads((tmp_path / "run/latency.json").read_text())
    assert written == {"median_s": seconds, "num_forwards": NUM_FORWARDS}
    (tmp_path / "run/latency.json").write_text('{"median_s": 7.0}')
    assert measure_latency(own) == 7.0
