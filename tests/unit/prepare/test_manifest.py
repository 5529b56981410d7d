"""The manifest: complete or not, of this version, and a revision that tells changes apart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_clips import data_config, prepare
from prepare_runs import MadeUpSet, run

from avs import storage
from avs.datasets import AudioConfig, DataConfig
from avs.errors import ConfigError, DataError
from avs.media.logmel import Alignment
from avs.prepare.manifest import (
    MANIFEST,
    REVISION,
    Manifest,
    issue_manifest,
    read_manifest,
    withdraw_manifest,
    write_manifest,
)


@pytest.fixture
def config(s4_root: Path) -> DataConfig:
    return data_config("s4", s4_root)


def test_a_manifest_is_read_as_it_was_written(config: DataConfig, tmp_path: Path) -> None:
    manifest = prepare(config, tmp_path / "out")
    assert read_manifest(str(tmp_path / "out")) == manifest
    assert [s.num_rows for s in manifest.split_shards("train")] == [2]
    with pytest.raises(DataError, match=r"split=tset has no clips.*Known: test, train, val"):
        manifest.split_shards("tset")


def _another_version(manifest: Manifest) -> Manifest:
    return replace(manifest, schema_version=99)


def test_a_folder_that_is_not_complete_or_not_ours_says_so(
    config: DataConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"out does not exist: run jobs/prepare\.py first"):
        read_manifest(str(out))
    manifest = prepare(config, out)
    write_manifest(str(out), _another_version(manifest))
    with pytest.raises(DataError, match=r"schema version 99, this code reads 1: run jobs/prepare"):
        read_manifest(str(out))
    (out / MANIFEST).write_text("[]")
    with pytest.raises(DataError, match="schema version None"):
        read_manifest(str(out))
    (out / MANIFEST).unlink()
    with pytest.raises(DataError, match=r"has no manifest\.json.*has not finished"):
        read_manifest(str(out))


def test_an_older_manifest_is_read_and_a_newer_one_too(config: DataConfig, tmp_path: Path) -> None:
    manifest = prepare(config, tmp_path)
    plain = json.loads((tmp_path / MANIFEST).read_text())
    for key in ("revision", "statistics", "warnings", "rejects_sha256"):
        del plain[key]
    (tmp_path / MANIFEST).write_text(json.dumps({**plain, "of_a_later_version": 1}))
    found = read_manifest(str(tmp_path))
    assert found == manifest
    assert (found.revision, found.statistics, found.warnings) == (1, {}, [])


def test_a_manifest_tells_the_alignment_of_its_log_mels(config: DataConfig, tmp_path: Path) -> None:
    prepare(replace(config, audio=AudioConfig(alignment=Alignment.EXACT)), tmp_path)
    assert read_manifest(str(tmp_path)).audio_alignment is Alignment.EXACT
    plain = json.loads((tmp_path / MANIFEST).read_text())
    audio = plain["config"]["data"]["audio"]
    assert audio.pop("alignment") == "exact"
    (tmp_path / MANIFEST).write_text(json.dumps(plain))
    assert read_manifest(str(tmp_path)).audio_alignment is Alignment.AVSBENCH
    audio["alignment"] = "later"
    (tmp_path / MANIFEST).write_text(json.dumps(plain))
    with pytest.raises(ConfigError, match=r"manifest\.json: data\.audio\.alignment=later is not"):
        _ = read_manifest(str(tmp_path)).audio_alignment


def _issue(out: str, manifest: Manifest, **changes: Any) -> int:
    return issue_manifest(out, replace(manifest, **changes)).revision


def test_the_revision_grows_when_the_content_changes(config: DataConfig, tmp_path: Path) -> None:
    made = prepare(config, tmp_path / "made")
    out = str(tmp_path / "out")
    assert _issue(out, made) == 1
    assert _issue(out, made, avs_version="9.9", config={}) == 1
    assert read_manifest(out).avs_version == made.avs_version  # nothing was written
    assert _issue(out, made, warnings=["new"]) == 2
    withdraw_manifest(out)
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        read_manifest(out)
    withdraw_manifest(out)  # a second run that was killed before it could issue one
    assert _issue(out, made, warnings=["new"]) == 2
    withdraw_manifest(out)
    assert _issue(out, made) == 3
    assert read_manifest(out).revision == 3


@pytest.mark.parametrize("killed_at", ["write_json", "remove"])
def test_a_revision_survives_a_kill_while_it_is_withdrawn(
    killed_at: str, config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepare(config, tmp_path / "made")
    out = str(tmp_path / "out")
    _issue(out, made)
    _issue(out, made, warnings=["new"])

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, killed_at, killed)
        with pytest.raises(KeyboardInterrupt):
            withdraw_manifest(out)
    withdraw_manifest(out)
    assert _issue(out, made) == 3


def test_a_run_that_changes_a_shard_issues_the_next_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = MadeUpSet(monkeypatch)
    assert run(clips.config(tmp_path)).revision == 1
    assert not (tmp_path / REVISION).exists()
    del clips.sources[-1]  # the only test clip: its shard is a stray now
    shorter = run(clips.config(tmp_path))
    assert (shorter.revision, shorter.counts["input"]) == (2, 8)
    assert {s.split for s in shorter.shards} == {"train", "val"}
    assert run(clips.config(tmp_path, max_reject_ratio=0.5)).revision == 2
