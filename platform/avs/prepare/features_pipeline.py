"""Stage ``features`` on Ray Data.

    shards of a finished manifest (driver) -> FeatureWorker (1 shard : 1 side-car file) -> manifest

An actor holds one network, on a GPU where ``scale`` gives one; it reads the sound and writes the
features itself, and a row of a few numbers comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from avs.inference.bucket import map_in_pool
from avs.prepare.config import FeaturesConfig
from avs.prepare.features import run_features
from avs.prepare.features_files import FeaturesManifest
from avs.prepare.features_shard import FeatureJob, FeatureWorker

__all__ = ["prepare_features"]


def prepare_features(
    config: FeaturesConfig, *, say: Callable[[str], None] = print
) -> FeaturesManifest | None:
    """Compute features into ``config.prepared``; run again, it does only what is missing.

    Returns the manifest, or None where ``config.dry_run`` only tells what there is to do.

    Raises:
        DataError: ``prepared`` is not complete, or lacks the waveforms that the network needs.
        ConfigError, WeightsError: the network, or a cluster that is too small for one worker.
        LeaseError: another run writes ``prepared``.
    """

    def execute(
        job: FeatureJob, owner: str, tasks: Sequence[dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        arguments = {"job": job, "owner": owner}
        return map_in_pool(FeatureWorker, list(tasks), arguments=arguments, scale=config.scale)

    return run_features(config, execute, say=say)
