"""The sweep on a local cluster: it finds, it stops early, it survives its driver, it tells."""

from __future__ import annotations

import gc
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from killing import kill_all, wait_until
from lost_trainings import processes_of_ray
from prepared_clips import prepare_synthetic
from small_configs import TWO_WORKERS, train_config

from avs import Predictor
from avs.config import dump, parse
from avs.datasets.synthetic import Layout
from avs.errors import ConfigError
from avs.training import TrainConfig
from avs.tuning.config import TuneConfig
from avs.tuning.plan import SweepPlan
from avs.tuning.schedule import make_scheduler
from avs.tuning.sweep import tune_sweep

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("ray_cluster")]

RATE = "train.learning_rate"
WIDTH = "model.options.fusion_width"


@pytest.fixture(scope="module")
def prepared(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    return prepare_synthetic(
        folder, layout=Layout.S4, num_train=8, num_val=4, num_test=1, silent_ratio=0
    )


def sweep(
    prepared: Path, out: Path, space: list[dict[str, Any]], *, epochs: int = 2, **search: Any
) -> TuneConfig:
    base = train_config(prepared, out, epochs=epochs, flip=False, scale=TWO_WORKERS)
    loss = {"bce_weight": 0.1, "dice_weight": 1.0}  # so that J is above 0 after an epoch
    given = {"num_trials": 3, "grace_epochs": 1, "reduction_factor": 2, "space": space, **search}
    return parse({**dump(base), "loss": loss, "search": given}, TuneConfig)


def table(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "trials.json").read_text())
    return found


def epochs_done(run: Path) -> int:
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_a_sweep_writes_a_configuration_that_trains_and_its_checkpoint(
    prepared: Path, tmp_path: Path
) -> None:
    out, said = tmp_path / "a sweep", list[str]()
    space = [{"key": WIDTH, "choice": [16, 32]}, {"key": RATE, "loguniform": [1e-3, 5e-3]}]
    best = tune_sweep(sweep(prepared, out, space), say=said.append)

    told = table(out)
    assert len(told["trials"]) == 3
    assert best["val_j"] == max(trial["val_j"] for trial in told["trials"])
    assert told["trials"][0]["values"] == {WIDTH: 16, RATE: 3e-3}  # as configured
    assert told["best"] == best
    assert any(told["command"] in line for line in said)
    words = shlex.split(told["command"])
    with initialize_config_dir(str(out), version_base="1.3"):
        again = parse(compose(words[words.index("--config-name") + 1], [words[-1]]), TrainConfig)
    assert words[words.index("--config-dir") + 1] == str(out)
    assert again.out == str(out / "best")
    assert again.train.learning_rate == best["values"][RATE]
    assert again.scale.num_workers == 1  # as the trial was trained
    plain = yaml.safe_load((out / "checkpoint" / "config.yaml").read_text())
    assert plain["model"]["options"]["fusion_width"] == best["values"][WIDTH]
    for checkpoint in (out / "checkpoint", out):
        predictor = Predictor.from_checkpoint(str(checkpoint))
        frames = np.zeros((2, 32, 32, 3), np.uint8)
        assert len(list(predictor.segment(frames, None, size_px=(20, 30)))) == 2
    assert "data:image/png;base64," in (out / "report.html").read_text()
    assert not (out / "_tune").exists()

    before = (out / "trials" / "0000" / "last.json").stat().st_mtime_ns
    assert tune_sweep(sweep(prepared, out, space), say=lambda _: None) == best
    assert (out / "trials" / "0000" / "last.json").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"another configuration: search\.space"):
        tune_sweep(sweep(prepared, out, space[:1]), say=lambda _: None)


def test_early_stopping_saves_steps_and_spares_the_best(prepared: Path, tmp_path: Path) -> None:
    space = [{"key": RATE, "choice": [1e-2, 1e-9, 2e-9]}]
    config = sweep(prepared, tmp_path, space, epochs=4, sampler="grid", max_concurrent_trials=1)
    best = tune_sweep(config, say=lambda _: None)
    trials = table(tmp_path)["trials"]
    assert best["epochs"] == 4
    assert [trial["status"] for trial in trials] == ["finished", "stopped", "stopped"]
    assert [trial["epochs"] for trial in trials] == [4, 1, 1]  # 6 of 12
    for trial in trials:
        assert epochs_done(tmp_path / "trials" / trial["trial"]) == trial["epochs"]


def test_asha_of_a_second_start_knows_the_trials_of_the_first(
    prepared: Path, tmp_path: Path
) -> None:
    config = sweep(prepared, tmp_path, [{"key": RATE, "choice": [1e-3]}], epochs=4)
    plan = SweepPlan(config)
    for score in (0.6, 0.5):
        record = plan.next()
        assert record is not None
        folder = tmp_path / "trials" / record.name
        folder.mkdir(parents=True, exist_ok=True)
        epoch = {"epoch": 1, "val_j": score, "val_f": score, "seconds": 1.0}
        (folder / "metrics.jsonl").write_text(json.dumps(epoch) + "\n")
    again = SweepPlan(config)
    scheduler: Any = make_scheduler(config, again)

    class Trial:
        trial_id = "named by Ray"
        config = {"trial": "0002"}  # noqa: RUF012

    again.next(), again.next(), again.next()
    scheduler.on_trial_add(None, Trial())
    worse = {"epoch": 1, "val_j": 0.4, "val_f": 0.4}
    assert scheduler.on_trial_result(None, Trial(), worse) == "STOP"
    assert again.find("0002").status.value == "stopped"


@pytest.mark.full
def test_killed_and_started_again_it_goes_on(prepared: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "killed", list[str]()
    tests = str(Path(__file__).parents[1])
    paths = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), tests])
    environment = {**os.environ, "AVS_TEST_RUN": str(out), "PYTHONPATH": paths}
    first = out / "trials" / "0000"
    with subprocess.Popen(
        [sys.executable, __file__, str(prepared), str(out)], env=environment
    ) as job:
        try:  # one trial done, the second has an epoch
            wait_until(lambda: epochs_done(out / "trials" / "0001") >= 1, job)
        finally:
            kill_all(f"AVS_TEST_RUN={out}")
    done = epochs_done(out / "trials" / "0001")
    assert epochs_done(first) == 3
    assert done < 3
    before = (first / "last.json").stat().st_mtime_ns
    values = json.loads((out / "trials" / "0001" / "trial.json").read_text())["values"]

    tune_sweep(_sweep_that_is_killed(prepared, out), say=said.append)

    trials = table(out)["trials"]
    assert [trial["status"] for trial in trials] == ["finished"] * 3
    assert [trial["epochs"] for trial in trials] == [3, 3, 3]
    assert trials[1]["values"] == values
    assert (first / "last.json").stat().st_mtime_ns == before
    assert any("of 2 trials 1 ended, 1 to go on" in line for line in said)
    own = [line for line in said if ": 0001 epoch" in line]
    assert not any("epoch 1/3" in line for line in own)  # not from its beginning


@pytest.mark.filterwarnings(  # Ray leaves its logs of the trials open where it was stopped
    "ignore:Exception ignored in. <_io.FileIO name=.*driver_artifacts"
    ":pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.full
def test_stopped_by_ctrl_c_and_started_again_it_goes_on(prepared: Path, tmp_path: Path) -> None:
    sent: list[str] = []

    def stop_once(line: str) -> None:
        if " epoch 1/" in line and not sent:
            sent.append(line)
            os.kill(os.getpid(), signal.SIGINT)

    config = _sweep_that_is_killed(prepared, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        tune_sweep(config, say=stop_once)
    gc.collect()  # the warnings now, not in another test
    assert [trial["status"] for trial in table(tmp_path)["trials"]] == ["unfinished"]
    assert not (tmp_path / "best.yaml").exists()

    tune_sweep(config, say=sent.append)
    assert [trial["epochs"] for trial in table(tmp_path)["trials"]] == [3, 3, 3]
    assert sum(": 0000 epoch 1/3" in line for line in sent) == 1  # before it was stopped


def test_a_trial_that_fails_is_tried_again_and_told(prepared: Path, tmp_path: Path) -> None:
    said: list[str] = []
    space = [{"key": RATE, "choice": [1e30, 3e-3]}]
    config = sweep(prepared, tmp_path, space, epochs=1, sampler="grid", num_trials=None)
    best = tune_sweep(config, say=said.append)
    failed, good = table(tmp_path)["trials"]
    assert best["trial"] == good["trial"]
    assert good["status"] == "finished"
    assert (failed["status"], failed["num_failures"]) == ("failed", 2)
    assert "lower train.learning_rate" in failed["error"]
    assert sum("0000 failed and is tried again" in line for line in said) == 1
    assert sum("0000 failed:" in line for line in said) == 1
    assert "lower train.learning_rate" in (tmp_path / "report.html").read_text()


@pytest.mark.full
def test_a_trial_that_gets_on_may_lose_its_machine_again_and_again(
    prepared: Path, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill(line: str) -> None:
        if "epoch 1/4" in line or "epoch 2/4" in line:
            (pid,) = processes_of_ray("ImplicitFunc")
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    space = [{"key": RATE, "choice": [3e-3]}]
    config = sweep(prepared, tmp_path, space, epochs=4, num_trials=1, grace_epochs=4)
    best = tune_sweep(config, say=kill)
    (trial,) = table(tmp_path)["trials"]
    assert len(set(killed)) == 2
    assert (best["epochs"], trial["status"], trial["num_failures"]) == (4, "finished", 2)


@pytest.mark.full
def test_two_objectives_give_a_front(prepared: Path, tmp_path: Path) -> None:
    space = [{"key": WIDTH, "choice": [16, 64]}]
    config = sweep(prepared, tmp_path, space, epochs=1, sampler="tpe", objectives=["j", "latency"])
    tune_sweep(config, say=lambda _: None)
    told = table(tmp_path)
    assert all(trial["latency_ms"] > 0 for trial in told["trials"])
    assert told["front"]
    for name in told["front"]:
        with initialize_config_dir(str(tmp_path / "front"), version_base="1.3"):
            parse(compose(name, ["out=o"]), TrainConfig)


def _sweep_that_is_killed(prepared: Path, out: Path) -> TuneConfig:
    space = [{"key": WIDTH, "choice": [16, 32]}, {"key": RATE, "loguniform": [1e-3, 5e-3]}]
    return sweep(prepared, out, space, epochs=3, grace_epochs=3, max_concurrent_trials=1)


def _tune_in_a_ray_of_its_own(prepared: str, out: str) -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    ray.init(
        "local",
        num_cpus=4,
        object_store_memory=200_000_000,
        include_dashboard=False,
        log_to_driver=False,
    )
    tune_sweep(_sweep_that_is_killed(Path(prepared), Path(out)))


if __name__ == "__main__":
    _tune_in_a_ray_of_its_own(*sys.argv[1:])
