"""Exactly once: wherever a run is killed, going on gives what an uninterrupted run gives."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from killed_run import POINTS
from made_clips import data_config
from prepare_runs import MadeUpSet, config_of, content_of, run

from avs import storage
from avs.datasets import AudioConfig, ClipSource
from avs.errors import DataError
from avs.lease import LEASE_NAME
from avs.media.logmel import Alignment
from avs.prepare import manifest as manifest_module
from avs.prepare import shard as shard_module
from avs.prepare.folder import PLAN
from avs.prepare.manifest import MANIFEST, read_manifest
from avs.prepare.plan import make_plan
from avs.prepare.records import RECORDS, SHARDS, read_records
from avs.schema import Clip, Source

TESTS = Path(__file__).resolve().parents[2]


class Killed(BaseException):
    """The process ends here, as by SIGKILL."""


class KillSwitch:
    """Kills before, after or within the n-th change of the folder, or at the n-th decoding."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rng: random.Random) -> None:
        self._rng, self._left = rng, -1
        for name in ("write_bytes", "put_file", "remove"):
            monkeypatch.setattr(storage, name, self._wrap(getattr(storage, name)))

    def arm(self, steps: int) -> None:
        self._left = steps

    def step(self) -> None:
        """One step of the run."""
        self._left -= 1
        if self._left == 0:
            raise Killed

    def _wrap(self, change: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            uri = str(args[-1] if change.__name__ == "put_file" else args[0])
            if uri.endswith(LEASE_NAME):
                return change(*args)
            if self._left == 1:
                self._cut(change, uri, args)
            self.step()
            return change(*args)

        return call

    def _cut(self, change: Callable[..., None], uri: str, args: tuple[Any, ...]) -> None:
        """What the change has done when the kill comes: nothing, all, or a part that is hidden."""
        done = self._rng.choice(("nothing", "all", "part"))
        if done == "all":
            change(*args)
        elif done == "part" and change.__name__ == "write_bytes":
            Path(uri).parent.mkdir(parents=True, exist_ok=True)
            storage.temporary_name(uri).write_bytes(args[1][: len(args[1]) // 2])


def dying(switch: KillSwitch, rng: random.Random) -> Any:
    """Some shards in any order; then each worker dies within a shard of its own."""

    def execute(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        order = rng.sample(list(items), len(items))
        num_whole = rng.randint(0, len(order))
        switch.arm(-1)
        for item in order[:num_whole]:
            yield function(item)
        in_flight = order[num_whole : num_whole + rng.randint(1, 4)]
        for item in in_flight:
            switch.arm(rng.randint(1, 6))
            try:
                function(item)
            except Killed:
                continue
        if in_flight:
            raise Killed
        switch.arm(rng.randint(1, 8))  # all shards are there: die while finishing

    return execute


def check_whole_or_absent(out: Path) -> None:
    """A manifest that is there describes the files that are there."""
    if not (out / MANIFEST).exists():
        return
    manifest = read_manifest(str(out))
    for shard in manifest.shards:
        data = (out / SHARDS / shard.name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == shard.sha256
    table = (out / manifest.rejects).read_bytes()
    assert hashlib.sha256(table).hexdigest() == manifest.rejects_sha256


def clips_of_finished_shards(config: Any) -> set[str]:
    plan = make_plan(config)
    done = read_records(config.out, plan.shards)
    return {s.clip_id for shard in plan.shards if shard.name in done for s in shard.sources}


def check_complete(out: Path, clips: MadeUpSet) -> None:
    """ok + rejected = input, and each clip in one place."""
    manifest = read_manifest(str(out))
    counts = manifest.counts
    assert counts["ok"] + counts["rejected"] == counts["input"] == len(clips.sources)
    shards = (pq.read_table(out / SHARDS / s.name)["clip_id"].to_pylist() for s in manifest.shards)
    ok = [clip_id for shard in shards for clip_id in shard]
    rejected = pq.read_table(out / manifest.rejects)["clip_id"].to_pylist()
    assert sorted(ok + rejected) == sorted(s.clip_id for s in clips.sources)


@pytest.mark.parametrize("seed", range(15))
def test_any_number_of_kills_anywhere_changes_nothing(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    clips = MadeUpSet(monkeypatch)
    clips.failing = {s.clip_id for s in rng.sample(clips.sources, rng.randint(0, 4))}
    clips.change(rng.randrange(9), problem="not there")
    run(clips.config(tmp_path / "reference"))
    out, config = tmp_path / "out", clips.config(tmp_path / "out")
    with monkeypatch.context() as patch:
        switch = KillSwitch(patch, rng)
        clips.at_decode = switch.step
        for _ in range(rng.randint(1, 5)):
            finished = clips_of_finished_shards(config)
            clips.decoded.clear()
            switch.arm(rng.choice((-1, 1, 2, 3)))
            try:
                run(config, dying(switch, rng))
            except Killed:
                check_whole_or_absent(out)
            assert not finished & set(clips.decoded)
            switch.arm(-1)
    finished = clips_of_finished_shards(config)
    clips.decoded.clear()
    run(config)
    assert not finished & set(clips.decoded)
    assert content_of(out) == content_of(tmp_path / "reference")
    assert read_manifest(str(out)).revision == 1
    check_complete(out, clips)
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize("seed", range(15))
def test_kills_between_changes_of_the_input_and_retries_change_nothing(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(1000 + seed)
    clips = MadeUpSet(monkeypatch)
    clips.failing = {s.clip_id for s in rng.sample(clips.sources, 4)}
    out = tmp_path / "out"
    revisions = []
    with monkeypatch.context() as patch:
        switch = KillSwitch(patch, rng)
        clips.at_decode = switch.step
        for number in range(4):
            _change_something(clips, rng, number)
            config = clips.config(out, retry_rejects=rng.random() < 0.5)
            switch.arm(rng.randint(1, 8))
            try:
                run(config, dying(switch, rng))
            except Killed:
                check_whole_or_absent(out)
            else:
                revisions.append(read_manifest(str(out)).revision)
            switch.arm(-1)
    revisions.append(run(clips.config(out, retry_rejects=True)).revision)
    assert revisions == sorted(revisions)
    run(clips.config(tmp_path / "fresh"))
    assert content_of(out) == content_of(tmp_path / "fresh")
    check_complete(out, clips)


def _change_something(clips: MadeUpSet, rng: random.Random, number: int) -> None:
    """A clip is replaced, one is mended, or the last ones go away or come back."""
    kind = rng.choice(("replace", "mend", "shorten", "nothing"))
    if kind == "replace":
        index = rng.randrange(len(clips.sources))
        uri = clips.sources[index].source.uri
        clips.change(index, source=Source(uri=uri, size_bytes=10, version=str(number)))
    elif kind == "mend" and clips.failing:
        clips.failing.discard(rng.choice(sorted(clips.failing)))
    elif kind == "shorten" and len(clips.sources) > 6:
        clips.failing.discard(clips.sources.pop().clip_id)


def test_a_finished_run_does_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = MadeUpSet(monkeypatch)
    clips.failing = {clips.sources[3].clip_id}
    first = run(clips.config(tmp_path))
    clips.decoded.clear()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    changes: list[str] = []
    for name in ("write_bytes", "put_file", "remove"):
        original = getattr(storage, name)

        def spy(*args: Any, original: Any = original) -> None:
            if not str(args[0]).endswith(LEASE_NAME):
                changes.append(f"{original.__name__} {args[0]}")
            original(*args)

        monkeypatch.setattr(storage, name, spy)
    assert run(clips.config(tmp_path)) == first
    assert clips.decoded == []
    assert changes == []
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before


def test_changed_input_is_done_again_and_only_its_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = MadeUpSet(monkeypatch)
    run(clips.config(tmp_path))
    for size_bytes, version in ((11, "v1"), (11, "v2")):
        clips.decoded.clear()
        before = {p.name: p.read_bytes() for p in (tmp_path / SHARDS).iterdir()}
        uri = clips.sources[3].source.uri
        clips.change(3, source=Source(uri=uri, size_bytes=size_bytes, version=version))
        run(clips.config(tmp_path))
        after = {p.name: p.read_bytes() for p in (tmp_path / SHARDS).iterdir()}
        assert clips.decoded == [clips.sources[2].clip_id, clips.sources[3].clip_id]
        assert [name for name in before if before[name] != after[name]] == ["train-00001.parquet"]
    assert read_manifest(str(tmp_path)).revision == 3


def test_input_that_goes_back_is_not_taken_for_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of the old content must not outlive its file, though their hashes agree."""
    clips = MadeUpSet(monkeypatch)
    old = clips.sources[0]
    run(clips.config(tmp_path))
    reference = content_of(tmp_path)
    clips.change(0, source=Source(uri=old.source.uri, size_bytes=10, version="v2"))
    with monkeypatch.context() as patch:
        patch.setattr(shard_module, "write_record", _die)
        with pytest.raises(Killed):
            run(clips.config(tmp_path))
    assert not (tmp_path / RECORDS / "train-00000.parquet.json").exists()
    clips.sources[0] = old
    run(clips.config(tmp_path))
    assert content_of(tmp_path) == reference


def _die(*_: object) -> None:
    raise Killed


@pytest.mark.parametrize("damage", ["shorten", "remove", "garble the record"])
def test_a_shard_damaged_from_outside_is_made_again(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = MadeUpSet(monkeypatch)
    run(clips.config(tmp_path))
    reference = content_of(tmp_path)
    clips.decoded.clear()
    shard = tmp_path / SHARDS / "val-00000.parquet"
    if damage == "shorten":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "remove":
        shard.unlink()
    else:
        (tmp_path / RECORDS / f"{shard.name}.json").write_text("{")
    manifest = run(clips.config(tmp_path))
    assert content_of(tmp_path) == reference
    assert clips.decoded == [s.clip_id for s in clips.sources[5:7]]
    assert manifest.revision == 1


def test_a_folder_that_only_shrinks_has_no_manifest_of_what_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = MadeUpSet(monkeypatch)
    run(clips.config(tmp_path))
    clips.decoded.clear()
    del clips.sources[-1]  # the only test clip, so a whole shard goes
    with monkeypatch.context() as patch:
        patch.setattr(manifest_module, "write_manifest", _die)
        with pytest.raises(Killed):
            run(clips.config(tmp_path))
    assert not (tmp_path / MANIFEST).exists()
    assert run(clips.config(tmp_path)).revision == 2
    assert clips.decoded == []


def test_local_and_s3_folders_hold_the_same(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names with spaces; killed before the manifest, gone on, input changed, rejects retried."""
    clips = MadeUpSet(monkeypatch)
    clips.failing = {clips.sources[1].clip_id}
    with monkeypatch.context() as patch:
        patch.setattr(manifest_module, "write_manifest", _die)
        with pytest.raises(Killed):
            run(clips.config(place))
    clips.decoded.clear()
    run(clips.config(place))
    assert clips.decoded == []
    clips.change(8, source=Source(uri="/videos/new.mp4", size_bytes=10, version="v2"))
    assert run(clips.config(place)).revision == 2
    clips.failing.clear()
    manifest = run(clips.config(place, retry_rejects=True))
    assert (manifest.revision, manifest.counts["ok"]) == (3, 9)
    run(clips.config(tmp_path / "fresh"))
    for name, data in content_of(tmp_path / "fresh").items():
        if name != MANIFEST:
            assert storage.read_bytes(storage.join(place, name)) == data
    assert read_manifest(place).shards == read_manifest(str(tmp_path / "fresh")).shards


@pytest.mark.parametrize(("key", "value"), [("root", "/elsewhere"), ("limit", 1)])
def test_what_would_take_clips_away_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: object
) -> None:
    clips = MadeUpSet(monkeypatch)
    run(clips.config(tmp_path))
    before = content_of(tmp_path)
    config = clips.config(tmp_path)
    setattr(config.data, key, value)
    with pytest.raises(DataError, match=rf"another configuration: data\.{key}\b"):
        run(config)
    assert content_of(tmp_path) == before


def test_a_first_try_with_a_limit_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = MadeUpSet(monkeypatch)
    config = clips.config(tmp_path)
    config.data.limit = 1
    run(config)
    assert run(clips.config(tmp_path)).counts["input"] == len(clips.sources)


@pytest.mark.parametrize(
    ("key", "value"),
    [("with_waveform", False), ("audio", AudioConfig(alignment=Alignment.EXACT))],
)
def test_another_configuration_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: object
) -> None:
    clips = MadeUpSet(monkeypatch)
    run(clips.config(tmp_path))
    config = clips.config(tmp_path)
    setattr(config.data, key, value)
    with pytest.raises(DataError, match=rf"another configuration: data\.{key}\b"):
        run(config)
    assert (tmp_path / PLAN).exists()
    assert run(clips.config(tmp_path)).revision == 1


@pytest.fixture(scope="module")
def killed_runs(s4_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each point at which a process was killed by SIGKILL."""
    outs = tmp_path_factory.mktemp("killed")
    path = os.pathsep.join(str(p) for p in (TESTS, TESTS / "unit"))
    script = str(Path(__file__).with_name("killed_run.py"))
    done = subprocess.run(
        [sys.executable, script, str(s4_root), str(outs)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.split() == [str(-signal.SIGKILL)] * len(POINTS), done.stderr
    return outs


@pytest.mark.parametrize("point", POINTS)
def test_a_process_killed_for_real_is_gone_on_from(
    point: str, killed_runs: Path, s4_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = killed_runs / point
    config = config_of(data_config("s4", s4_root), out, shard_clips=1)
    assert not (out / MANIFEST).exists()
    finished = clips_of_finished_shards(config)
    assert len(finished) == (4 if "manifest" in point else 1)
    assert bool(list(out.rglob("*.tmp"))) == (point == "within the manifest")

    (out / LEASE_NAME).unlink()  # instead of waiting until the dead owner's lease is stale
    decoded = []
    original = shard_module.prepare_rows

    def counted(source: ClipSource, *others: Any) -> Iterator[Clip]:
        decoded.append(source.clip_id)
        return original(source, *others)

    monkeypatch.setattr(shard_module, "prepare_rows", counted)
    run(config)
    assert len(decoded) == 4 - len(finished)
    assert not finished & set(decoded)
    run(config_of(data_config("s4", s4_root), tmp_path / "reference", shard_clips=1))
    assert content_of(out) == content_of(tmp_path / "reference")
    assert not list(out.rglob("*.tmp"))
