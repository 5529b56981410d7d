"""Runs of stage ``features`` in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from small_configs import ONE_WORKER

from avs.prepare.config import FeaturesConfig, FrozenNetworkConfig
from avs.prepare.features import run_features
from avs.prepare.features_files import FeaturesManifest
from avs.prepare.features_shard import FeatureJob, FeatureWorker


def loop(job: FeatureJob, owner: str, tasks: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One worker, in order."""
    yield from map(FeatureWorker(job, owner), tasks)


def features(
    prepared: Path | str,
    weights: Path | str,
    *,
    network: str = "tones",
    execute: Any = loop,
    say: Callable[[str], None] = lambda _: None,
    dry_run: bool = False,
) -> FeaturesManifest | None:
    """The whole stage on a prepared folder."""
    model = FrozenNetworkConfig(audio_network=network, audio_weights=str(weights))
    config = FeaturesConfig(prepared=str(prepared), model=model, scale=ONE_WORKER, dry_run=dry_run)
    return run_features(config, execute, say=say)


def folder_of(prepared: Path, manifest: FeaturesManifest) -> Path:
    """Where a run left its side-car shards."""
    return prepared / "features" / f"{manifest.network}-{manifest.weights_hash}"
