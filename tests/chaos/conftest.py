"""One cluster of several machines for the whole session, and the undisturbed run of each job."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from chaos_cluster import Cluster, cluster
from chaos_jobs import KINDS, Kind, upload_videos
from chaos_table import Cell, add_cell
from machines import can_make_machines


@dataclass
class Calm:
    """Results and seconds of undisturbed runs; each job is run when it is asked for first."""

    cluster: Cluster
    results: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)

    def run(self, kind: Kind) -> Any:
        """The result of a run that nobody disturbs."""
        for other in kind.needs:
            self.run(KINDS[other])
        if kind.name not in self.results:
            out, begun_s = self.cluster.uri(kind.name, "calm"), time.monotonic()
            job = self.cluster.submit(*kind.command(self.cluster, out))
            self.printed[kind.name] = job.must_succeed()
            self.seconds[kind.name] = time.monotonic() - begun_s
            self.results[kind.name] = kind.result(self.cluster, out)
        return self.results[kind.name]


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Head and two workers with their own addresses, and videos in their bucket."""
    if reason := can_make_machines():
        pytest.skip(f"no machines of their own: {reason}")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    with cluster() as made:
        upload_videos(made, tmp_path_factory.mktemp("videos"))
        yield made


@pytest.fixture(scope="session")
def calm(machines: Cluster) -> Calm:
    return Calm(machines)


@pytest.fixture(scope="session")
def record() -> Callable[[Cell], None]:
    """Writes what a fault did into the table that AVS_CHAOS_TABLE names, if it does."""
    path = os.environ.get("AVS_CHAOS_TABLE")
    return lambda cell: add_cell(cell, Path(path)) if path else None
