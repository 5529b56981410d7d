"""The synthetic data set, written on Ray Data before it is prepared like any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from avs import storage
from avs.config import dump
from avs.datasets import DataConfig
from avs.datasets.synthetic import ClipSpec, SyntheticConfig, clip_plan, write_clip, write_metadata
from avs.errors import DataError
from avs.prepare.run import Execute
from avs.progress import Progress

__all__ = ["generate_synthetic"]

_CLIPS_PER_TASK = 20


def generate_synthetic(data: DataConfig, execute: Execute, *, say: Callable[[str], None]) -> None:
    """Write the synthetic data set below ``data.root`` unless it is there whole.

    Raises:
        DataError: the folder holds something else.
    """
    if data.synthetic is None:
        raise DataError("data=synthetic needs the group data.synthetic.")
    config, root = data.synthetic, storage.absolute(data.root)
    marker, writing = storage.join(root, "synthetic.json"), storage.join(root, "_writing")
    if storage.exists(marker):
        if storage.read_json(marker) != dump(config):
            raise DataError(f"{root} holds synthetic data of another configuration: {marker}")
        return
    if storage.exists(root) and storage.list_files(root) and not storage.exists(writing):
        raise DataError(f"data.root={root} holds other files; give an empty or new folder.")
    Path(root).mkdir(parents=True, exist_ok=True)
    storage.write_bytes(writing, b"")
    specs = clip_plan(config)
    say(f"synthetic: writing {len(specs)} clips to {root}")
    parts = [specs[k : k + _CLIPS_PER_TASK] for k in range(0, len(specs), _CLIPS_PER_TASK)]
    progress = Progress("synthetic", total=len(specs), unit="clips", say=say)
    for count in execute(partial(_write_clips, root=root, config=config), parts):
        progress.add(count)
    write_metadata(root, specs, config)
    storage.write_json(marker, dump(config))
    storage.remove(writing)


def _write_clips(specs: Sequence[ClipSpec], *, root: str, config: SyntheticConfig) -> int:
    for spec in specs:
        write_clip(root, spec, config)
    return len(specs)
