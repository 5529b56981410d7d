"""Stage ``features`` on Ray Data.

    shards of a finished manifest (driver) -> FeatureWorker (1 shard : 1 side-car file) -> manifest

An actor holds one network, on a GPU where ``scale`` gives one; it reads the sound and writes the
features itself, and a row of a few numbers comes back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from avs import storage
from avs.inference.pool import map_in_pool
from avs.prepare.config import FeaturesConfig
from avs.prepare.features import run_features
from avs.prepare.features_files import FEATURES, FeaturesManifest, features_name
from avs.prepare.features_shard import FeatureJob, FeatureWorker
from avs.telemetry import JobRun, count_items, current_run, job_run, stage, use_run, write_summary

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
        arguments = {"job": job, "owner": owner, "run": current_run()}
        return map_in_pool(
            WriteFeatures, list(tasks), arguments=arguments, scale=config.scale, name="features"
        )

    if config.dry_run:
        return run_features(config, execute, say=say)
    prepared, start_s = storage.absolute(config.prepared), time.monotonic()
    with job_run("features", out=prepared) as run:
        made = run_features(config, execute, say=say)
        assert made is not None
        rows = [
            ("network", made.network),
            ("clips", sum(shard.num_rows for shard in made.shards)),
            ("shards", len(made.shards)),
            ("bytes", sum(shard.size_bytes for shard in made.shards)),
        ]
        name = features_name(made.network, made.weights_hash)
        folder = storage.join(prepared, FEATURES, name)  # the prepared folder has one of its own
        write_summary(folder, run=run, seconds=time.monotonic() - start_s, rows=rows, say=say)
    return made


class WriteFeatures:
    """Body of a worker: a :class:`FeatureWorker` that is measured, and logged for its run."""

    def __init__(self, job: FeatureJob, owner: str, run: JobRun | None) -> None:
        use_run(run)
        self._worker = FeatureWorker(job, owner)

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        """The worker's row of a shard."""
        with stage("features", "shard"):
            row = self._worker(task)
        count_items(row["num_rows"], job="features", status="ok")
        return row
