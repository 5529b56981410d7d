"""The study: every variant with every seed, once; what is done stays done."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from prepared_clips import prepare_synthetic
from small_configs import TWO_WORKERS, model_config, train_config

from avs import storage
from avs.datasets.synthetic import Layout
from avs.errors import AvsError, ConfigError, DataError
from avs.training.config import MixtureConfig, TrainConfig
from avs.training.run import Run
from avs.tuning.study import run_study
from avs.tuning.study_config import GroupsConfig, StudyConfig

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def prepared(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    return prepare_synthetic(folder, layout=Layout.MS3, num_train=4, num_val=2, num_test=3)


def _study(prepared: Path, out: Path, seeds: list[int]) -> StudyConfig:
    return StudyConfig(
        data=MixtureConfig(prepared=str(prepared)),
        tests={"held_back": str(prepared)},
        variants={"gated": [], "tpavi": []},
        overrides=[],
        seeds=seeds,
        scale=TWO_WORKERS,
        out=str(out),
        baseline="gated",
    )


def _variants(prepared: Path, out: Path, **changes: float) -> dict[str, TrainConfig]:
    base = train_config(prepared, out, epochs=1, **changes)
    gated = model_config(name="gated")
    return {"gated": replace(base, model=gated), "tpavi": base}


def test_each_variant_and_seed_is_trained_and_tested_once(prepared: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "out", list[str]()
    variants = _variants(prepared, out)
    run_study(_study(prepared, out, [0]), variants, say=said.append)
    assert sum("epoch 1" in line for line in said) == 2
    before = (out / "runs/tpavi/seed-0/last.json").stat().st_mtime_ns

    said.clear()
    text = run_study(_study(prepared, out, [0, 1]), variants, say=said.append)
    trained = [line for line in said if "epoch 1" in line]
    assert all("seed-1" in line for line in trained)
    assert len(trained) == 2
    assert (out / "runs/tpavi/seed-0/last.json").stat().st_mtime_ns == before
    assert (out / "study.md").read_text() == text
    assert "Epochs: 1. Seeds: 0, 1." in text
    assert "held_back: 3 clips of 3 groups" in text
    table = json.loads((out / "study.json").read_text())["tables"]["held_back"]
    scores = [
        json.loads((out / f"scores/tpavi/seed-{seed}/held_back.json").read_text())
        for seed in (0, 1)
    ]
    means = [score["conditions"]["true"]["j"] for score in scores]
    assert table["figures"]["tpavi"]["j_true"]["mean"] == pytest.approx(sum(means) / 2)
    clips = [clip["true"]["j"] for clip in scores[0]["clips"]]
    assert sum(clips) / len(clips) == pytest.approx(means[0])
    assert not (out / "_tune").exists()


def test_a_variant_that_fails_is_named_and_the_others_are_done(
    prepared: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    variants = _variants(prepared, out)
    broken = replace(variants["tpavi"], model=model_config(backbone="no_such_backbone"))
    with pytest.raises(AvsError, match=r"1 of 2 trainings failed, tpavi/seed-0 with .*no_such"):
        run_study(_study(prepared, out, [0]), variants | {"tpavi": broken}, say=lambda _: None)
    assert (out / "scores/gated/seed-0/held_back.json").exists()
    assert not (out / "study.md").exists()


def test_cut_short_it_says_how_far_it_got_and_ends_as_stopped(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray takes Ctrl-C for itself: it returns with what there is."""
    monkeypatch.setattr("avs.tuning.study.run_trials", lambda *_, **__: [])
    said: list[str] = []
    variants = _variants(prepared, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        run_study(_study(prepared, tmp_path / "out", [0]), variants, say=said.append)
    assert said == ["study: 0 of 2 trainings are done"]


def test_what_cannot_end_well_is_refused_before_anything_is_trained(
    prepared: Path, tmp_path: Path
) -> None:
    out, said = tmp_path / "out", list[str]()
    study, variants = _study(prepared, out, [0]), _variants(prepared, out)
    (tmp_path / "groups.csv").write_text("name,picture\nother,1\n")
    groups = GroupsConfig(file=str(tmp_path / "groups.csv"), clip="name", group="picture")
    with pytest.raises(DataError, match=r"groups\.csv has no row for .* of tests\.held_back"):
        run_study(replace(study, groups=groups), variants, say=said.append)
    nowhere = replace(study, tests={"held_back": str(tmp_path / "nowhere")})
    with pytest.raises(DataError, match=r"tests\.held_back=.*nowhere does not exist"):
        run_study(nowhere, variants, say=said.append)
    run = Run(variants["gated"].out.replace("/out", "/out/runs/gated/seed-0"))
    begun = replace(
        variants["gated"], out=run.out, train=replace(variants["gated"].train, epochs=3)
    )
    run.claim(replace(begun, seed=9))
    storage.write_json(storage.join(run.out, "last.json"), {"checkpoint": "an epoch"})
    with pytest.raises(ConfigError, match="holds a run with another configuration"):
        run_study(study, variants, say=said.append)
    assert not said
