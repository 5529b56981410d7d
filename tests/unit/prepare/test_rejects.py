"""Rejects: rows with stage and reason, counts, the budget, and trying again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from prepare_runs import MadeUpSet, content_of, run

from avs.errors import ConfigError, LeaseError, RejectBudgetError
from avs.lease import Lease
from avs.prepare.manifest import MANIFEST, read_manifest
from avs.prepare.rejects import common_messages


@pytest.fixture
def clips(monkeypatch: pytest.MonkeyPatch) -> MadeUpSet:
    """Nine clips: two cannot be decoded, one is not there."""
    clips = MadeUpSet(monkeypatch)
    clips.failing = {clips.sources[0].clip_id, clips.sources[5].clip_id}
    clips.change(8, problem="the video is missing")
    return clips


def test_each_reject_is_a_row_and_counted_by_stage_and_type(
    clips: MadeUpSet, tmp_path: Path
) -> None:
    counts = run(clips.config(tmp_path)).counts
    assert (counts["ok"], counts["rejected"], counts["input"]) == (6, 3, 9)
    assert counts["rejects"] == {
        "by_stage": {"decode": 2, "list": 1},
        "by_error_type": {"MediaError": 3},
    }
    rows = pq.read_table(tmp_path / "rejects.parquet").to_pylist()
    assert {(r["clip_id"], r["split"], r["stage"], r["message"]) for r in rows} == {
        ("mine/videos/train 0.mp4", "train", "decode", "/videos/train 0.mp4 is broken"),
        ("mine/videos/val 0.mp4", "val", "decode", "/videos/val 0.mp4 is broken"),
        ("mine/videos/test 0.mp4", "test", "list", "the video is missing"),
    }


def test_too_many_rejects_fail_the_run_after_everything_is_written(
    clips: MadeUpSet, tmp_path: Path
) -> None:
    config = clips.config(tmp_path, max_reject_ratio=0.3)
    told = (
        r"3 of 9 clips were rejected \(33\.3%\), max_reject_ratio=0\.3 allows 30\.0%.*"
        r"Most frequent: 2 x \.\.\. is broken \(first: .*\); 1 x the video is missing"
    )
    with pytest.raises(RejectBudgetError, match=told) as caught:
        run(config)
    assert caught.value.exit_code == 3
    assert read_manifest(str(tmp_path)).counts["ok"] == 6
    clips.decoded.clear()
    with pytest.raises(RejectBudgetError):  # the finished folder is over budget too
        run(config)
    assert clips.decoded == []
    assert run(clips.config(tmp_path, max_reject_ratio=0.34)).counts["rejected"] == 3


def test_no_reject_is_allowed_by_a_ratio_of_0(clips: MadeUpSet, tmp_path: Path) -> None:
    with pytest.raises(RejectBudgetError):
        run(clips.config(tmp_path, max_reject_ratio=0.0))
    clips.failing.clear()
    clips.change(8, problem=None)
    retry = clips.config(tmp_path, max_reject_ratio=0.0, retry_rejects=True)
    assert run(retry).counts["rejected"] == 0


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_a_ratio_that_is_none_is_refused(value: float, clips: MadeUpSet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"max_reject_ratio={value} must be between 0 and 1"):
        clips.config(tmp_path, max_reject_ratio=value)


def test_a_retry_tries_only_the_rejects_and_issues_a_revision(
    clips: MadeUpSet, tmp_path: Path
) -> None:
    run(clips.config(tmp_path / "out"))
    clips.failing = {clips.sources[5].clip_id}
    clips.decoded.clear()
    unchanged = {p.name for p in (tmp_path / "out" / "shards").iterdir()} - {"train-00000.parquet"}
    stamps = {n: (tmp_path / "out" / "shards" / n).stat().st_mtime_ns for n in unchanged}

    lines: list[str] = []
    manifest = run(clips.config(tmp_path / "out", retry_rejects=True), say=lines.append)

    assert clips.decoded == [clips.sources[0].clip_id, clips.sources[5].clip_id]
    assert (manifest.revision, manifest.counts["ok"], manifest.counts["rejected"]) == (2, 7, 2)
    assert stamps == {n: (tmp_path / "out" / "shards" / n).stat().st_mtime_ns for n in unchanged}
    assert any(line.startswith("prepare: 3/3 clips") for line in lines)
    run(clips.config(tmp_path / "fresh"))
    assert content_of(tmp_path / "out") == content_of(tmp_path / "fresh")


def test_a_retry_without_success_changes_nothing(clips: MadeUpSet, tmp_path: Path) -> None:
    run(clips.config(tmp_path))
    before = content_of(tmp_path)
    assert run(clips.config(tmp_path, retry_rejects=True)).revision == 1
    assert content_of(tmp_path) == before


def test_a_retry_without_rejects_leaves_the_manifest_alone(
    clips: MadeUpSet, tmp_path: Path
) -> None:
    clips.failing.clear()
    clips.change(8, problem=None)
    run(clips.config(tmp_path))
    stamp = (tmp_path / MANIFEST).stat().st_mtime_ns
    run(clips.config(tmp_path, retry_rejects=True))
    assert (tmp_path / MANIFEST).stat().st_mtime_ns == stamp


def test_without_a_retry_rejects_stay(clips: MadeUpSet, tmp_path: Path) -> None:
    run(clips.config(tmp_path))
    clips.failing.clear()
    clips.decoded.clear()
    assert run(clips.config(tmp_path)).counts["rejected"] == 3
    assert clips.decoded == []


def test_progress_names_the_rejects(clips: MadeUpSet, tmp_path: Path) -> None:
    lines: list[str] = []
    run(clips.config(tmp_path), say=lines.append)
    (last,) = [line for line in lines if line.startswith("prepare: 9/9 clips, ")]
    assert last.endswith("3 rejected")


def test_warnings_about_clips_are_counted_by_kind(clips: MadeUpSet, tmp_path: Path) -> None:
    for index in (1, 2, 6):
        source = clips.sources[index]
        clips.warnings[source.clip_id] = [f"{source.clip_id}: {index} masks are left out"]
    clips.warnings[clips.sources[3].clip_id] = ["odd rate"]
    clips.change(4, notes=("object name 'h orse' is read as 'horse'",))
    lines: list[str] = []
    manifest = run(clips.config(tmp_path), say=lines.append)
    assert manifest.warnings == [
        "1 x object name 'h orse' is read as 'horse'",
        "3 x ...: N masks are left out (first: mine/videos/train 1.mp4: 1 masks are left out)",
        "1 x odd rate",
    ]
    assert f"prepare: warning: {manifest.warnings[1]}" in lines


def test_reasons_are_counted_without_the_files_and_numbers_in_them() -> None:
    messages = [(f"/d/{k} [x].mp4", f"/d/{k} [x].mp4 has no sound") for k in range(3)]
    messages += [("/d/1.mp4", f"mask /d/masks/{k}.png: {k / 4} of 3x4 px") for k in range(4)]
    messages += [("/d/9.mp4", "/d/9.mp4 is empty")]
    assert common_messages(messages) == [
        ("mask ...: N of 3x4 px (first: mask /d/masks/0.png: 0.0 of 3x4 px)", 4),
        ("... has no sound (first: /d/0 [x].mp4 has no sound)", 3),
        ("/d/9.mp4 is empty", 1),
    ]


def test_a_lost_lease_leaves_no_manifest(
    clips: MadeUpSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[Any] = []
    original = Lease.check

    def lost_at_the_end(self: Lease) -> None:
        checks.append(self)
        if len(checks) == 2:  # after the sheet is drawn, before the manifest
            raise LeaseError("lost")
        original(self)

    monkeypatch.setattr(Lease, "check", lost_at_the_end)
    with pytest.raises(LeaseError):
        run(clips.config(tmp_path))
    assert not (tmp_path / MANIFEST).exists()
