"""Prepare: videos or AVSBench folders to Parquet clip rows, on Ray Data."""

from avs.prepare.config import PrepareConfig
from avs.prepare.manifest import Manifest, read_manifest

__all__ = ["Manifest", "PrepareConfig", "read_manifest"]
