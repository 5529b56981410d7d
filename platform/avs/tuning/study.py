"""A study on Ray Tune: every variant with every seed, the same budget, the same tests.

A trial is the plain training loop in its own run folder and then the tests of its best checkpoint
by validation J, so a study that was killed goes on where it was: finished runs and scores stay. No
early stopping, because a variant that learns slowly at first would not get the same budget.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from ray import tune

from avs import storage
from avs.config import build, dump
from avs.errors import AvsError, DataError
from avs.inference.predictor import checkpoint_hash
from avs.inference.split_scores import score_split
from avs.lease import Lease, check_owner
from avs.prepare.manifest import read_manifest
from avs.report.study import study_markdown, study_tables
from avs.scale import ScaleConfig
from avs.telemetry import JobRun, current_run, job_run, log_line, use_run, write_summary
from avs.training.checkpoint import resolve_checkpoint
from avs.training.config import MixtureConfig, TrainConfig
from avs.training.feed import ClipReader
from avs.training.folders import check_alike
from avs.training.loop import train
from avs.training.resources import check_resources
from avs.training.run import Run
from avs.training.state import Worker
from avs.tuning.claim import claim_data
from avs.tuning.study_config import StudyConfig, read_groups
from avs.tuning.tuner import last_line, run_trials

__all__ = ["run_study"]

_TEST_SPLIT = "test"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cell:
    """One training. config: plain, as ``dump`` gives it. scores: where those of each test go."""

    name: str
    config: dict[str, Any]
    tests: dict[str, str]
    scores: dict[str, str]


def run_study(
    config: StudyConfig, variants: Mapping[str, TrainConfig], *, say: Callable[[str], None] = print
) -> str:
    """Train and test; write ``out/study.json`` and ``out/study.md``; returns the latter.

    variants: the training configuration of each; its data, seed, scale and folder are set here.

    Raises:
        ConfigError: a training does not fit the cluster, or ``out`` holds another one of its name.
        DataError: a test has no test split, is of another kind than what is trained on, or its
            clips have no group.
        AvsError: a training failed; the same command goes on with the others done.
        KeyboardInterrupt: Ctrl-C; likewise.
    """
    out = storage.absolute(config.out)
    tests = {name: storage.absolute(folder) for name, folder in config.tests.items()}
    data = config.data.map_folders(storage.absolute)
    _check_tests(config, data, tests)
    one, start_s = config.scale.one_worker, time.monotonic()
    check_resources(one, say=say)
    cells = {
        (variant, seed): _cell(
            out,
            variant,
            seed,
            replace(own.map_paths(storage.absolute), data=data, scale=one),
            tests,
        )
        for seed in config.seeds  # a study that is stopped has compared all variants
        for variant, own in variants.items()
    }
    with Lease(out, job="study", say=say) as lease:
        runs = [Run(cell.config["out"]) for cell in cells.values()]
        claim_data(out, data.folders, is_begun=any(run.last_uri() for run in runs))
        for run, cell in zip(runs, cells.values(), strict=True):  # before a minute is spent on any
            run.claim(build(TrainConfig, cell.config, path=""))
        with job_run("study", out=out) as job:
            _run(list(cells.values()), out, config.scale, owner=lease.owner, say=say)
            lease.check()
            scores = {
                test: {
                    variant: [
                        storage.read_json(cells[variant, seed].scores[test])
                        for seed in config.seeds
                    ]
                    for variant in variants
                }
                for test in tests
            }
            text = _write(config, variants.values(), out, scores)
            say(text)
            rows, seconds = _summary(config, variants, scores), time.monotonic() - start_s
            write_summary(out, run=job, seconds=seconds, rows=rows, say=say)
    return text


def _summary(
    config: StudyConfig, variants: Mapping[str, TrainConfig], scores: dict[str, Any]
) -> list[tuple[str, Any]]:
    """Mean J of each variant and test over the seeds, with the true sound."""
    rows: list[tuple[str, Any]] = [
        ("variants", len(variants)),
        ("seeds", len(config.seeds)),
        ("trainings", len(variants) * len(config.seeds)),
    ]
    for test, by_variant in scores.items():
        for variant, own in by_variant.items():
            mean = sum(score["conditions"]["true"]["j"] for score in own) / len(own)
            rows.append((f"J {variant} on {test}", mean))
    return rows


def _check_tests(config: StudyConfig, data: MixtureConfig, tests: Mapping[str, str]) -> None:
    trained = read_manifest(data.folders[0])
    for name, folder in tests.items():
        if not storage.exists(folder):
            raise DataError(f"tests.{name}={folder} does not exist: give a prepared folder.")
        reader = ClipReader(folder, split=_TEST_SPLIT)
        check_alike({data.folders[0]: trained, folder: reader.manifest})
        read_groups(config.groups, reader.clip_ids(), test=name)


def _cell(
    out: str, variant: str, seed: int, config: TrainConfig, tests: Mapping[str, str]
) -> _Cell:
    name = f"{variant}/seed-{seed}"
    run = replace(config, seed=seed, out=storage.join(out, "runs", name))
    scores = {test: storage.join(out, "scores", name, f"{test}.json") for test in tests}
    return _Cell(name=name, config=dump(run), tests=dict(tests), scores=scores)


def _run(
    cells: list[_Cell], out: str, scale: ScaleConfig, *, owner: str, say: Callable[[str], None]
) -> None:
    told = current_run()

    def study_training(values: dict[str, Any]) -> None:
        _train_and_test(cells[values["cell"]], out=out, owner=owner, run=told)

    results = run_trials(
        study_training,
        name_of=lambda values: re.sub(r"[^A-Za-z0-9_.-]", "-", cells[values["cell"]].name),
        scale=scale,
        param_space={"cell": tune.grid_search(list(range(len(cells))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=scale.num_workers),
        bookkeeping=storage.join(out, "_tune"),
        progress=_Live(say, cells),
    )
    failed = [(cells[r.config["cell"]].name, r.error) for r in results if r.error is not None]
    if failed:
        name, error = failed[0]
        raise AvsError(
            f"{len(failed)} of {len(cells)} trainings failed, {name} with {last_line(error)}. "
            "The others are done; the same command goes on."
        )
    done = [all(storage.exists(uri) for uri in cell.scores.values()) for cell in cells]
    if not all(done):  # Ray takes Ctrl-C for itself and returns
        say(f"study: {sum(done)} of {len(cells)} trainings are done")
        raise KeyboardInterrupt


def _train_and_test(cell: _Cell, *, out: str, owner: str, run: JobRun | None) -> None:
    use_run(run)
    config: TrainConfig = build(TrainConfig, cell.config, path="")
    history = train(
        config,
        Worker(
            device=torch.device(config.scale.device),
            check_lease=lambda: check_owner(out, owner),
            after_epoch=lambda m: tune.report({k: m[k] for k in ("epoch", "val_j")}),
        ),
    )
    best = resolve_checkpoint(config.out)
    for test, folder in cell.tests.items():
        data = read_manifest(folder)
        of = {"checkpoint": checkpoint_hash(best), "data": [data.config_hash, data.revision]}
        uri = cell.scores[test]
        if storage.exists(uri) and storage.read_json(uri)["of"] == of:
            continue
        scores = score_split(best, folder, split=_TEST_SPLIT, device=config.scale.device)
        seconds = sum(epoch["seconds"] for epoch in history)
        check_owner(out, owner)
        storage.write_json(uri, {"of": of, "train_seconds": seconds, **scores})
    tune.report({"epoch": len(history), "val_j": history[-1]["val_j"], "tested": True})


def _about(config: StudyConfig, variants: Iterable[TrainConfig]) -> str:
    """What was trained on and for how long."""
    manifests = [read_manifest(folder) for folder in config.data.folders]
    counts = {
        split: sum(s.num_rows for m in manifests for s in m.shards if s.split == split)
        for split in ("train", "val")
    }
    epochs = " or ".join(str(n) for n in sorted({v.train.epochs for v in variants}))
    val = counts["val"]
    chosen = f"the epoch chosen on {val}" if val else "the last epoch taken for want of a val split"
    seeds = ", ".join(str(seed) for seed in config.seeds)
    return f"Trained on {counts['train']} clips, {chosen}. Epochs: {epochs}. Seeds: {seeds}."


def _write(
    config: StudyConfig, variants: Iterable[TrainConfig], out: str, scores: dict[str, Any]
) -> str:
    tables = {
        test: study_tables(
            by_variant,
            groups_of=partial(read_groups, config.groups, test=test),
            baseline=config.baseline,
        )
        for test, by_variant in scores.items()
    }
    text = study_markdown(
        tables,
        num_seeds=len(config.seeds),
        baseline=config.baseline,
        about=_about(config, variants),
    )
    storage.write_json(
        storage.join(out, "study.json"),
        {"config": dump(config), "tables": {test: dump(t) for test, t in tables.items()}},
    )
    storage.write_bytes(storage.join(out, "study.md"), text.encode())
    return text


class _Live:
    """Tells how trainings go on."""

    def __init__(self, say: Callable[[str], None], cells: list[_Cell]) -> None:
        self._say, self._cells, self._ended = say, cells, 0

    def on_result(self, config: dict[str, Any], result: dict[str, Any]) -> None:
        """An epoch, or that the tests are done."""
        score = result["val_j"]
        told = "tested" if result.get("tested") else f"epoch {result['epoch']}"
        shown = "" if score is None else f", val J {score:.3f}"
        self._say(f"study: {self._name(config)} {told}{shown}")

    def on_end(self, config: dict[str, Any]) -> None:
        """A training and its tests."""
        self._ended += 1
        self._say(f"study: {self._name(config)} ended, {self._ended} of {len(self._cells)}")

    def on_failure(self, config: dict[str, Any], error: str, *, final: bool) -> None:  # noqa: ARG002
        """A failure; a study tries none again by itself."""
        self._ended += 1
        log_line(f"{self._name(config)} failed: {error}", level=logging.WARNING, stage="trial")
        self._say(f"study: {self._name(config)} failed, {self._ended} of {len(self._cells)}")

    def _name(self, config: dict[str, Any]) -> str:
        place: int = config["cell"]
        return self._cells[place].name
