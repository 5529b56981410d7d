"""Stage ``features``, but for who executes it: which side-car shards are missing, and the manifest.

The lease is that of the prepared folder: while features are computed nothing changes its rows, and
a second run of either stage refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from avs import __version__, storage
from avs.errors import DataError
from avs.lease import Lease
from avs.models.audio import AUDIO_NETWORKS
from avs.models.weights import hash_weights
from avs.prepare.config import FeaturesConfig
from avs.prepare.features_files import (
    DTYPE,
    FEATURES,
    FEATURES_VERSION,
    FeatureShard,
    FeaturesManifest,
    Origin,
    features_manifest_uri,
    features_name,
    read_features_manifest,
    read_shard_origin,
    write_features_manifest,
)
from avs.prepare.features_shard import FeatureJob, feature_shapes, frozen_network
from avs.prepare.manifest import Manifest, ManifestShard, read_manifest
from avs.progress import Progress
from avs.training.lineage import content_hash

__all__ = ["ExecuteFeatures", "run_features"]

# (what workers know, owner of the lease, tasks) -> a FeatureShard as a dict for each, in any order.
ExecuteFeatures = Callable[[FeatureJob, str, Sequence[dict[str, Any]]], Iterator[dict[str, Any]]]
_NUM_READERS = 8


def run_features(
    config: FeaturesConfig, execute: ExecuteFeatures, *, say: Callable[[str], None]
) -> FeaturesManifest | None:
    """Compute the features of all clips of ``config.prepared``; run again, it does what is missing.

    Returns the manifest, or None where ``config.dry_run`` only tells what there is to do.

    Raises:
        DataError: ``prepared`` is not complete, or lacks the waveforms that the network needs.
        ConfigError, WeightsError: the network.
        LeaseError: another run writes ``prepared``.
    """
    prepared = storage.absolute(config.prepared)
    manifest = read_manifest(prepared)
    _check_sound(prepared, manifest, config.model.audio_network)
    job = _job(config, prepared, manifest)
    if config.dry_run:
        missing = len(manifest.shards) - len(_finished(job, manifest))
        say(
            f"features: {missing} of {len(manifest.shards)} shards of {_short(job)} are missing in "
            f"{job.folder} (dry run: nothing is written)"
        )
        return None
    with Lease(prepared, job="features", say=say) as lease:
        manifest = read_manifest(prepared)  # from now on nothing changes it
        shards = _all_shards(job, manifest, lease, execute, say=say)
        lease.check()
        made = _manifest(job, manifest, shards)
        if _standing(job) != made:
            write_features_manifest(job.folder, made)
    num_clips = sum(shard.num_rows for shard in made.shards)
    say(f"features: {num_clips} clips of {_short(job)} -> {job.folder}")
    return made


def _job(config: FeaturesConfig, prepared: str, manifest: Manifest) -> FeatureJob:
    """The job; reads the weights once, for their hash."""
    name, weights = config.model.audio_network, config.model.audio_weights
    weights_hash = hash_weights(frozen_network(name, weights).state_dict())
    return FeatureJob(
        prepared=prepared,
        folder=storage.join(prepared, FEATURES, features_name(name, weights_hash)),
        network=name,
        weights=weights,
        weights_hash=weights_hash,
        num_frames=manifest.format.num_frames,
        device=config.scale.device,
        num_threads=max(1, int(config.scale.cpus_per_worker)),
    )


def _check_sound(prepared: str, manifest: Manifest, network: str) -> None:
    kind = AUDIO_NETWORKS[network].build.input_kind if network in AUDIO_NETWORKS else ""
    if kind == "waveform" and not manifest.format.with_waveform:
        raise DataError(
            f"{prepared} was prepared with data.with_waveform=false, but model.audio_network="
            f"{network} needs waveforms: prepare it again with true, or take a log-mel network."
        )


def _all_shards(
    job: FeatureJob,
    manifest: Manifest,
    lease: Lease,
    execute: ExecuteFeatures,
    *,
    say: Callable[[str], None],
) -> list[FeatureShard]:
    """Those that are there and those that ``execute`` computes, in the order of the manifest."""
    storage.remove_temporaries(job.folder)
    done = _finished(job, manifest)
    missing = [shard for shard in manifest.shards if shard.name not in done]
    strays = _strays(job, manifest)
    if missing or strays:  # until the end the folder is not complete
        storage.remove(features_manifest_uri(job.folder))
    for uri in strays:
        storage.remove(uri)
    if done:
        say(f"features: {len(done)} of {len(manifest.shards)} shards are there already")
    progress = Progress(
        "features", total=sum(shard.num_rows for shard in missing), unit="clips", say=say
    )
    tasks = [{"name": shard.name, "sha256": shard.sha256} for shard in missing]
    for row in execute(job, lease.owner, tasks) if tasks else ():
        found = FeatureShard(**row)
        done[found.name] = found
        progress.add(found.num_rows)
    return [done[shard.name] for shard in manifest.shards]


def _strays(job: FeatureJob, manifest: Manifest) -> list[str]:
    """Side-car shards of an earlier state of the prepared data that it has no more."""
    wanted = {shard.name for shard in manifest.shards}
    files = [info.path for info in storage.list_files(job.folder)]
    left = [path for path in files if path.endswith(".parquet") and path not in wanted]
    return [storage.join(job.folder, path) for path in left]


def _finished(job: FeatureJob, manifest: Manifest) -> dict[str, FeatureShard]:
    """By name, the side-car shards that were computed from these rows with these weights."""
    standing = _standing(job)
    known = {shard.name: shard for shard in standing.shards} if standing else {}
    there = {info.path for info in storage.list_files(job.folder)}
    begun = [shard for shard in manifest.shards if shard.name in there]

    def read(shard: ManifestShard) -> FeatureShard | None:
        found = read_shard_origin(storage.join(job.folder, shard.name))
        wanted = Origin(
            features_version=FEATURES_VERSION,
            network=job.network,
            weights_hash=job.weights_hash,
            source_sha256=shard.sha256,
        )
        if found is None or found[0] != wanted or found[1].num_rows != shard.num_rows:
            return None
        # A file whose bytes are not those that were written is computed again.
        earlier = known.get(shard.name)
        damaged = earlier is not None and earlier.source_sha256 == shard.sha256
        return None if damaged and earlier != found[1] else found[1]

    with ThreadPoolExecutor(_NUM_READERS) as pool:
        return {shard.name: shard for shard in pool.map(read, begun) if shard is not None}


def _standing(job: FeatureJob) -> FeaturesManifest | None:
    """The manifest that is there, if it can be read."""
    try:
        return read_features_manifest(job.folder)
    except DataError:
        return None


def _manifest(
    job: FeatureJob, manifest: Manifest, shards: Sequence[FeatureShard]
) -> FeaturesManifest:
    return FeaturesManifest(
        features_version=FEATURES_VERSION,
        avs_version=__version__,
        network=job.network,
        weights_hash=job.weights_hash,
        prepared_sha256=content_hash(manifest),
        dtype=DTYPE,
        shapes=feature_shapes(job.network, num_frames=job.num_frames),
        shards=list(shards),
    )


def _short(job: FeatureJob) -> str:
    return features_name(job.network, job.weights_hash)
