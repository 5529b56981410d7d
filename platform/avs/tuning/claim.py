"""Whose folder it is: a sweep's ``sweep.yaml``, and the refusal of another one's.

A sweep may be started again with a larger budget or on another cluster; what decides the scores of
its trials may not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from avs import storage
from avs.config import dump
from avs.config_changes import changes, tell, with_defaults
from avs.errors import ConfigError
from avs.prepare.manifest import read_manifest
from avs.training.lineage import content_hash
from avs.tuning.config import TuneConfig
from avs.tuning.records import trial_folder, trial_name

__all__ = ["claim_data", "claim_sweep"]

_FREE_KEYS = (
    *("out", "scale", "train.num_threads", "inference"),
    *("search.num_trials", "search.max_seconds", "search.max_failures"),
    *("search.max_concurrent_trials", "checkpoint.keep_best", "logging", "data.feed"),
)


def claim_sweep(config: TuneConfig) -> bool:
    """Write sweep.yaml, or refuse a folder that something else began; whether a trial was begun.

    Raises:
        ConfigError: a run or a checkpoint lies there, or a sweep with another configuration; names
            a key that differs.
    """
    for name, what in (("last.json", "a run"), ("weights.safetensors", "a checkpoint")):
        if storage.exists(storage.join(config.out, name)):
            raise ConfigError(f"out={config.out} is {what}, not a sweep: give another out=.")
    uri = storage.join(config.out, "sweep.yaml")
    mine = _plain(config)
    is_begun = storage.exists(storage.join(trial_folder(config.out, trial_name(0)), "trial.json"))
    if is_begun and storage.exists(uri):
        theirs = with_defaults(yaml.safe_load(storage.read_bytes(uri)), TuneConfig, as_plain=_plain)
        changed = changes(mine, theirs, free=_FREE_KEYS)
        if changed:
            raise ConfigError(
                f"out={config.out} holds a sweep with another configuration: {tell(changed)}. "
                "Give another out=, or remove that folder."
            )
    storage.write_bytes(uri, yaml.safe_dump(mine, sort_keys=False).encode())
    return is_begun


def claim_data(out: str, folders: Sequence[str], *, is_begun: bool) -> None:
    """Write data.json, the hash of what each prepared folder holds, or refuse others than it has.

    Raises:
        ConfigError: ``out`` is begun, and a folder was prepared anew since.
    """
    uri = storage.join(out, "data.json")
    mine = {folder: content_hash(read_manifest(folder)) for folder in folders}
    theirs = storage.read_json(uri) if is_begun and storage.exists(uri) else mine
    changed = [folder for folder in folders if theirs.get(folder) != mine[folder]]
    if changed:
        raise ConfigError(
            f"{changed[0]} was prepared anew since out={out} was begun, whose scores are of other "
            "clips: put the data back, give another out=, or remove that folder."
        )
    storage.write_json(uri, mine)


def _plain(config: TuneConfig) -> dict[str, Any]:
    """The configuration with the one space that counts."""
    plain: dict[str, Any] = dump(config)
    search = {**plain["search"], "space": dump(config.space())}
    del search["spaces"]
    return {**plain, "search": search}
