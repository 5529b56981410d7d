"""Stage ``features``: what a frozen audio network makes of every clip, beside the prepared rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from feature_runs import features, folder_of, loop
from frozen_networks import know_networks, write_weights
from made_clips import data_config, prepare

from avs import storage
from avs.errors import ConfigError, DataError, LeaseError, WeightsError
from avs.lease import LEASE_NAME, Lease
from avs.models import AudioNetwork, build_audio_network
from avs.models.system import hear
from avs.models.weights import hash_weights
from avs.prepare.features_files import FeaturesManifest, read_features_manifest
from avs.prepare.features_shard import FeatureWorker
from avs.prepare.manifest import read_manifest, write_manifest
from avs.prepare.reading import read_shard
from avs.schema import read_clips
from avs.training.audio_features import find_features
from avs.training.lineage import content_hash


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    know_networks(monkeypatch)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path, "tones")


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> Path:
    """A prepared folder of its own."""
    folder = tmp_path / "prepared"
    shutil.copytree(prepared, folder)
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def computed(data: Path, weights: Path, **options: Any) -> tuple[FeaturesManifest, list[str]]:
    """A run, and the shards that it computed."""
    names: list[str] = []

    def noting(job: Any, owner: str, tasks: Any) -> Iterator[dict[str, Any]]:
        for row in loop(job, owner, tasks):
            names.append(row["name"])
            yield row

    manifest = features(data, weights, execute=noting, **options)
    assert manifest is not None
    return manifest, names


def rows_of(path: Path) -> list[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        return read_clips(file, range(file.num_row_groups), file.schema_arrow.names)


def heard(network: AudioNetwork, sound: np.ndarray) -> dict[str, np.ndarray]:
    output = hear(network, torch.from_numpy(sound.copy())[None], num_frames=5)
    found = {"embedding": output.embedding, "logits": output.logits}
    return {name: value.numpy() for name, value in found.items() if value is not None}


@pytest.mark.parametrize("network", ["tones", "loudness"])
def test_every_clip_has_what_the_network_makes_of_it_in_order(
    data: Path, tmp_path: Path, network: str
) -> None:
    weights = write_weights(tmp_path, network)
    before = bytes_of(data)
    manifest, _ = computed(data, weights, network=network)
    built = build_audio_network(network, weights=str(weights))
    folder = folder_of(data, manifest)
    shards = read_manifest(str(data)).shards
    assert {p.name for p in folder.iterdir()} == {s.name for s in shards} | {"manifest.json"}
    for shard in shards:
        clips = list(read_shard(str(data / "shards" / shard.name)))
        rows = rows_of(folder / shard.name)
        assert [row["clip_id"] for row in rows] == [clip.clip_id for clip in clips]
        for row, clip in zip(rows, clips, strict=True):
            wanted = heard(built, getattr(clip, built.input_kind))
            assert row.keys() == {"clip_id", *wanted}
            assert all(np.array_equal(row[name], value) for name, value in wanted.items())
            assert row["embedding"].any()
    assert {k: v for k, v in bytes_of(data).items() if not k.startswith("features/")} == before


def test_the_manifest_says_what_they_were_computed_from(data: Path, weights: Path) -> None:
    manifest, _ = computed(data, weights)
    network = build_audio_network("tones", weights=str(weights))
    assert manifest.weights_hash == hash_weights(network.state_dict())
    assert manifest.prepared_sha256 == content_hash(read_manifest(str(data)))
    assert manifest.shapes == {"embedding": [5, 8], "logits": [5, 527]}
    assert manifest.dtype == "float32"
    assert read_features_manifest(str(folder_of(data, manifest))) == manifest
    assert [s.source_sha256 for s in manifest.shards] == [
        s.sha256 for s in read_manifest(str(data)).shards
    ]


def test_a_second_run_computes_nothing_and_leaves_everything_as_it_is(
    data: Path, weights: Path
) -> None:
    computed(data, weights)
    before = {p: p.stat().st_mtime_ns for p in data.rglob("*") if p.is_file()}
    lines: list[str] = []
    _, names = computed(data, weights, say=lines.append)
    assert names == []
    assert {p: p.stat().st_mtime_ns for p in data.rglob("*") if p.is_file()} == before
    total = len(read_manifest(str(data)).shards)
    assert lines[0] == f"features: {total} of {total} shards are there already"


def test_killed_between_shards_it_goes_on_and_ends_as_if_it_was_not(
    data: Path, prepared: Path, weights: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(prepared, whole)
    computed(whole, weights)

    def dying(job: Any, owner: str, tasks: Any) -> Iterator[dict[str, Any]]:
        yield FeatureWorker(job, owner)(tasks[0])
        FeatureWorker(job, owner)(tasks[1])  # written, but the driver does not learn of it
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features(data, weights, execute=dying)
    assert not list(data.rglob("features/*/manifest.json"))
    (folder,) = (data / "features").iterdir()
    (folder / ".half.parquet.1.tmp").write_bytes(b"half")
    _, names = computed(data, weights)
    assert names == [s.name for s in read_manifest(str(data)).shards[2:]]
    assert bytes_of(data) == bytes_of(whole)


def test_only_what_changed_is_computed_again(data: Path, weights: Path) -> None:
    first, _ = computed(data, weights)
    folder = folder_of(data, first)
    manifest = read_manifest(str(data))
    changed, damaged, gone = (shard.name for shard in manifest.shards[:3])
    # The prepare job writes a shard anew: other bytes, another checksum.
    manifest.shards[0] = replace(manifest.shards[0], sha256="0" * 64)
    write_manifest(str(data), manifest)
    content = bytearray((folder / damaged).read_bytes())
    content[40] ^= 255
    (folder / damaged).write_bytes(bytes(content))
    (folder / gone).unlink()
    (folder / "val-00009.parquet").write_bytes(b"of a shard that is no more")
    second, names = computed(data, weights)
    assert sorted(names) == sorted([changed, damaged, gone])
    assert second.prepared_sha256 != first.prepared_sha256
    assert not (folder / "val-00009.parquet").exists()
    assert second.shards[0].source_sha256 == "0" * 64
    assert second.shards[1:] == first.shards[1:]
    assert computed(data, weights)[1] == []


def test_a_folder_is_not_whole_while_shards_are_computed_again(data: Path, weights: Path) -> None:
    folder = folder_of(data, computed(data, weights)[0])
    next(folder.glob("*.parquet")).unlink()

    def dying(*_: Any) -> Iterator[dict[str, Any]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features(data, weights, execute=dying)
    with pytest.raises(DataError, match="is not finished"):
        read_features_manifest(str(folder))


def test_other_weights_have_a_folder_of_their_own(
    data: Path, weights: Path, tmp_path: Path
) -> None:
    first, _ = computed(data, weights)
    before = bytes_of(folder_of(data, first))
    second, names = computed(data, write_weights(tmp_path, "tones", seed=4))
    assert len(names) == len(second.shards)
    assert second.weights_hash != first.weights_hash
    assert bytes_of(folder_of(data, first)) == before


def test_a_run_that_lost_its_lease_commits_nothing(data: Path, weights: Path) -> None:
    def robbed(job: Any, owner: str, tasks: Any) -> Iterator[dict[str, Any]]:
        lease = json.loads((data / LEASE_NAME).read_text()) | {"owner": "another"}
        (data / LEASE_NAME).write_text(json.dumps(lease))
        yield from loop(job, owner, tasks)

    with pytest.raises(LeaseError, match="lost to another"):
        features(data, weights, execute=robbed)
    assert not list(data.rglob("features/*/*"))


def test_it_refuses_while_another_run_writes_the_prepared_folder(data: Path, weights: Path) -> None:
    with Lease(str(data), job="prepare", heartbeat_s=0.1), pytest.raises(LeaseError, match="prep"):
        features(data, weights)


def test_a_dry_run_tells_what_is_missing_and_writes_nothing(data: Path, weights: Path) -> None:
    before, lines = bytes_of(data), list[str]()
    assert features(data, weights, say=lines.append, dry_run=True) is None
    total = len(read_manifest(str(data)).shards)
    assert lines[0].startswith(f"features: {total} of {total} shards of tones-")
    assert bytes_of(data) == before


@pytest.mark.parametrize(
    ("network", "spec", "error", "parts"),
    [
        ("small", "random", ConfigError, r"small is trained with the segmenter.*vggish"),
        ("tones", "random", ConfigError, r"audio_weights=random is another network in every run"),
        ("vgish", "x.pth", ConfigError, r"model\.audio_network='vgish' is unknown; known: small"),
        ("tones", "gone.pth", WeightsError, r"gone\.pth"),
    ],
)
def test_a_network_without_fixed_features_is_refused(
    data: Path, network: str, spec: str, error: type[Exception], parts: str
) -> None:
    with pytest.raises(error, match=parts):
        features(data, spec, network=network)
    assert not (data / "features").exists()


def test_prepared_data_that_cannot_be_heard_or_is_not_whole_is_refused(
    ms3_root: Path, data: Path, tmp_path: Path
) -> None:
    prepare(data_config("ms3", ms3_root, with_waveform=False), tmp_path / "mel")
    weights = write_weights(tmp_path, "loudness")
    with pytest.raises(DataError, match=r"with_waveform=false.*loudness needs waveforms"):
        features(tmp_path / "mel", weights, network="loudness")
    (data / "manifest.json").unlink()
    with pytest.raises(DataError, match="no manifest"):
        features(data, weights, network="loudness")
    with pytest.raises(DataError, match="does not exist"):
        features(tmp_path / "nothing", weights, network="loudness")
    assert not (tmp_path / "nothing").exists()


def test_workers_with_other_weights_than_the_driver_are_refused(
    data: Path, weights: Path, tmp_path: Path
) -> None:
    def elsewhere(job: Any, owner: str, tasks: Any) -> Iterator[dict[str, Any]]:
        write_weights(tmp_path, "tones", seed=4).replace(weights)
        yield from loop(job, owner, tasks)

    with pytest.raises(WeightsError, match=r"has the hash \w{16} on a worker, but \w{16}"):
        features(data, weights, execute=elsewhere)
    assert not list(data.rglob("features/*/*"))


def test_a_folder_in_a_bucket_is_no_different(
    prepared: Path, s3_folder: str, weights: Path
) -> None:
    for path in prepared.rglob("*"):
        if path.is_file():
            name = str(path.relative_to(prepared))
            storage.write_bytes(storage.join(s3_folder, name), path.read_bytes())
    first = features(s3_folder, weights)
    assert first is not None
    assert features(s3_folder, weights, execute=None) == first  # nothing is left to execute
    manifest = read_manifest(s3_folder)
    found, _ = find_features(
        {s3_folder: manifest},
        network="tones",
        audio=build_audio_network("tones", weights=str(weights)),
    )
    assert found is not None
    name = manifest.shards[0].name
    clip = next(iter(read_shard(storage.join(s3_folder, "shards", name))))
    assert found(s3_folder, name, 0, clip.clip_id)["embedding"].shape == (5, 8)
