"""Whose folder it is: a sweep's ``sweep.yaml``, and the refusal of another one's.

A sweep may be started again with a larger budget or on another cluster; what decides the scores of
its trials may not change.
"""

from __future__ import annotations

from typing import Any

import yaml

from avs import storage
from avs.config import dump
from avs.config_changes import changes, tell, with_defaults
from avs.errors import ConfigError
from avs.tuning.config import TuneConfig
from avs.tuning.records import trial_folder, trial_name

__all__ = ["claim_sweep"]

_FREE_KEYS = (
    *("out", "scale", "train.num_threads", "inference"),
    *("search.num_trials", "search.max_seconds", "search.max_failures"),
    *("search.max_concurrent_trials", "checkpoint.keep_best", "logging", "data.feed"),
)


def claim_sweep(config: TuneConfig) -> None:
    """Write sweep.yaml, or refuse a folder that something else began.

    Raises:
        ConfigError: a run or a checkpoint lies there, or a sweep with another configuration; names
            a key that differs.
    """
    for name, what in (("last.json", "a run"), ("weights.safetensors", "a checkpoint")):
        if storage.exists(storage.join(config.out, name)):
            raise ConfigError(f"out={config.out} is {what}, not a sweep: give another out=.")
    uri = storage.join(config.out, "sweep.yaml")
    mine = _plain(config)
    begun = storage.join(trial_folder(config.out, trial_name(0)), "trial.json")
    if storage.exists(begun) and storage.exists(uri):
        theirs = with_defaults(yaml.safe_load(storage.read_bytes(uri)), TuneConfig, as_plain=_plain)
        changed = changes(mine, theirs, free=_FREE_KEYS)
        if changed:
            raise ConfigError(
                f"out={config.out} holds a sweep with another configuration: {tell(changed)}. "
                "Give another out=, or remove that folder."
            )
    storage.write_bytes(uri, yaml.safe_dump(mine, sort_keys=False).encode())


def _plain(config: TuneConfig) -> dict[str, Any]:
    """The configuration with the one space that counts."""
    plain: dict[str, Any] = dump(config)
    search = {**plain["search"], "space": dump(config.space())}
    del search["spaces"]
    return {**plain, "search": search}
