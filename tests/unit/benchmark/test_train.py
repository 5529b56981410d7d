"""Stage train: both sides train the same, the comparison is told rightly, mistakes come first."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from stage_config import train_stage_config

from avs.benchmark import run_benchmark, train_cases, train_runs
from avs.benchmark import train as train_stage
from avs.benchmark.process import Usage
from avs.benchmark.train import benchmark_train
from avs.config import dump, parse
from avs.errors import ConfigError, DataError
from avs.prepare import PrepareConfig
from avs.training import TrainConfig

ROOT = Path(__file__).resolve().parents[3]
JOBS = ROOT / "jobs"
USAGE = Usage(started_s=1000.0, seconds=60.0, peak_bytes=7_000_000)
# Clips/s on each side by number of workers.
RATES = {"torchrun": {1: 10.0, 2: 16.0}, "avs": {1: 9.8, 2: 15.2}}
MOMENTS = {"trainer": [10.0, 20.0, 25.0, 26.0], "avs": [11.0, 21.0, 27.5, 30.0]}

Fake = Callable[..., Usage]


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    """As inside the job."""
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
        yield


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were run; each leaves what its side leaves, with figures from above."""
    seen: list[list[str]] = []

    def run(command: Sequence[str], *, num_threads: int) -> Usage:
        assert num_threads == 1
        seen.append(list(command))
        name = _target(command).name.partition("-")[0]
        _target(command).mkdir()
        if name in MOMENTS and "scale.num_workers=3" in _overrides(command):
            _leave_moments(_target(command), name)
        else:
            _leave_epochs(_target(command), name)
        return USAGE

    monkeypatch.setattr(train_runs, "run_measured", run)
    monkeypatch.setattr(train_cases, "run_moments", train_cases._bare_moments)
    return seen


def _target(command: Sequence[str]) -> Path:
    for word in command:
        if word.startswith("out="):
            return Path(word.removeprefix("out=").strip("'"))
    return Path(command[-2] if "avs.benchmark.bare_train" in command else command[-1])


def _overrides(command: Sequence[str]) -> list[str]:
    """Of the job; those of a bare script, as far as they matter here, from its configuration."""
    if str(JOBS / "train.py") in command:
        return list(command[2:])
    plain = _bare_config(command)
    return [f"scale.num_workers={plain['scale']['num_workers']}"]


def _bare_config(command: Sequence[str]) -> dict[str, Any]:
    (path,) = [word for word in command if word.endswith(".json")]
    plain: dict[str, Any] = json.loads(Path(path).read_text())
    return plain


def _leave_epochs(target: Path, name: str) -> None:
    rate = RATES[name][int(target.name.split("-")[1])]
    epochs = [{"clips_per_s": r, "stall": 0.01} for r in (1.0, rate, rate)]
    (target / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in epochs))


def _leave_moments(target: Path, name: str) -> None:
    names = ("driver", "begun", "first_step", "epoch")
    moments = [USAGE.started_s + seconds for seconds in MOMENTS[name]]
    (target / "moments.json").write_text(json.dumps(dict(zip(names, moments, strict=True))))


def _run(tmp_path: Path, prepared: Path, **section: Any) -> tuple[str, dict[str, Any]]:
    repeats = section.pop("repeats", 1)
    config = train_stage_config(tmp_path, repeats=repeats, prepared=str(prepared), **section)
    text = benchmark_train(config, jobs=JOBS, say=lambda _: None)
    assert (tmp_path / "benchmark.md").read_text() == text
    return text, json.loads((tmp_path / "benchmark.json").read_text())


def test_rates_are_compared_with_as_many_workers_and_with_one(
    prepared: Path, tmp_path: Path, commands: list[list[str]]
) -> None:
    text, result = _run(tmp_path, prepared, cases=["scaling"], repeats=7)
    assert len(commands) == 4 * 7
    assert "| 1 worker | at least 0.95 | 0.980 | 0.980 | 7 |" in text
    assert "| 2 workers | at least 0.95 | 0.950 | 0.950 | 7 |" in text
    efficiency = result["ratios"]["scaling"]["efficiency"]
    assert efficiency["torchrun"]["2 workers"]["median"] == pytest.approx(16.0 / 20.0)
    assert efficiency["avs"]["2 workers"]["median"] == pytest.approx(15.2 / 19.6)
    assert result["repeats"]["scaling"]["avs-2"][0]["clips_per_s"] == pytest.approx(15.2)
    assert not list((tmp_path / "runs").iterdir())


def test_starts_are_compared_from_the_start_of_the_process(
    prepared: Path, tmp_path: Path, commands: list[list[str]]
) -> None:
    text, result = _run(
        tmp_path, prepared, cases=["start"], start_workers=3, overrides=["model=tiny", _ONE_CLIP]
    )
    assert len(commands) == 2
    assert "| first_step_s | at most 1.15 | 1.100 |  | 1 |" in text  # 27.5 s : 25 s
    assert "| total_s | at most 1.15 | 1.000 |  | 1 |" in text
    (avs,) = result["repeats"]["start"]["avs"]
    assert (avs["driver_s"], avs["begun_s"], avs["total_s"]) == (11.0, 21.0, 60.0)


_ONE_CLIP = "train.batch_size=1"


def test_the_bare_scripts_follow_what_the_job_is_given(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, dict[str, Any]] = {}

    def run(command: Sequence[str], *, num_threads: int) -> Usage:
        assert num_threads == 2
        target = _target(command)
        if str(JOBS / "train.py") in command:
            seen[target.name] = dump(parse(compose("train", command[2:]), TrainConfig))
        else:
            seen[target.name] = _bare_config(command)
            assert any(word == f"--nproc-per-node={target.name[9]}" for word in command)
        target.mkdir()
        _leave_epochs(target, target.name.partition("-")[0])
        return USAGE

    monkeypatch.setattr(train_runs, "run_measured", run)
    given = ["model=tiny", "train.precision=bf16", "train.num_threads=2"]
    _run(tmp_path, prepared, cases=["scaling"], overrides=given)
    assert sorted(seen) == ["avs-1-0", "avs-2-0", "torchrun-1-0", "torchrun-2-0"]
    for name, plain in seen.items():
        plain.pop("out")
        assert plain["scale"]["num_workers"] == int(name.split("-")[1])
        assert plain["train"]["image_size_px"] is None  # as prepared
    assert seen["torchrun-2-0"] == seen["avs-2-0"]
    assert seen["torchrun-2-0"]["train"]["precision"] == "bf16"


def test_one_shard_is_one_epoch_of_a_start(
    prepared: Path, tmp_path: Path, commands: list[list[str]]
) -> None:
    _run(
        tmp_path,
        prepared,
        cases=["start"],
        start_workers=3,
        overrides=["model=tiny", _ONE_CLIP],
        start_overrides=["logging.report=false"],
    )
    bare, job = sorted(commands, key=lambda command: str(JOBS / "train.py") in command)
    config = parse(compose("train", job[2:]), TrainConfig)
    assert config.data.weights == [3 / 8]  # three clips of eight are in the first shard
    assert not config.logging.report
    assert config.logging.tensorboard
    assert bare[-2].endswith("train-00000.parquet")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.accumulate_steps=2", "train.accumulate_steps=2 .* give train.accumulate_steps=1"),
        ("train.ema_decay=0.9", "give train.ema_decay=null"),
        ("data.weights=[2]", "give data.weights=null"),
        ("scale=gpu", "give scale.gpus_per_worker=0"),
        ("model.audio_network=beats", "hears waveforms"),
        ("train.batch_sze=1", "train.overrides: train.batch_sze=1 is not known"),
        ("train.batch_size=64", "less than one step of 1 workers with train.batch_size=64"),
    ],
)
def test_what_the_bare_scripts_cannot_follow_is_refused_before_anything_runs(
    prepared: Path, tmp_path: Path, commands: list[list[str]], override: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        _run(tmp_path, prepared, overrides=["model=tiny", override])
    assert commands == []


def test_features_beside_the_clips_are_refused(
    prepared: Path, tmp_path: Path, commands: list[list[str]]
) -> None:
    folder = tmp_path / "prepared"
    shutil.copytree(prepared, folder)
    (folder / "features" / "vggish-0").mkdir(parents=True)
    (folder / "features" / "vggish-0" / "a.parquet").touch()
    with pytest.raises(DataError, match="features/"):
        _run(tmp_path, folder)
    assert commands == []


def test_a_smoke_run_is_short_and_says_that_it_says_nothing(
    prepared: Path, tmp_path: Path, commands: list[list[str]]
) -> None:
    config = train_stage_config(
        tmp_path, quick=True, repeats=3, prepared=str(prepared), cases=["scaling"], num_clips=999
    )
    assert (config.train.num_clips, config.train.epochs) == (32, 2)
    text = run_benchmark(config, jobs=JOBS)
    assert "a smoke run" in text
    assert "at least" not in text
    assert len(commands) == 4


def test_clips_are_made_by_the_job_and_only_once(
    prepared: Path, tmp_path: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[PrepareConfig] = []

    def prepare(command: Sequence[str]) -> Usage:
        assert command[1] == str(JOBS / "prepare.py")
        made.append(parse(compose("prepare", list(command[2:])), PrepareConfig))
        shutil.copytree(prepared, made[-1].out)
        return USAGE

    monkeypatch.setattr(train_stage, "run_measured", prepare)
    for _ in range(2):
        config = train_stage_config(tmp_path, cases=["scaling"], num_clips=40)
        benchmark_train(config, jobs=JOBS, say=lambda _: None)
    (config_of_prepare,) = made
    assert config_of_prepare.data.synthetic is not None
    assert config_of_prepare.data.synthetic.num_train == 40
    assert config_of_prepare.data.image_size_px == 64
    assert any(f"data.prepared='{config_of_prepare.out}'" in command for command in commands)


def test_an_unknown_case_names_the_known_ones(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="scaling, start"):
        _run(tmp_path, prepared, cases=["stat"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_clips", 0),
        ("epochs", 1),
        ("start_workers", 0),
        ("loader_processes", -1),
        ("image_size_px", 100),
        ("workers", []),
        ("workers", [1, 1]),
        ("workers", [0]),
        ("prepared", "s3://bucket/s4"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"train.{key}={value}")):
        train_stage_config(tmp_path, **{key: value})
