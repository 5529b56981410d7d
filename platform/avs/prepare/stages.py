"""The stages of ``jobs/prepare.py``: which keys belong to which, and what runs.

One root configuration for both, so that ``--help`` tells all keys; what a stage does not take is
refused instead of being passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from avs.config import build, parse
from avs.errors import ConfigError
from avs.prepare.config import FeaturesConfig, PrepareConfig, Stage

__all__ = ["parse_stage", "run_stage"]

_FEATURES_KEYS = ["prepared", "model", "scale", "dry_run"]
# Of stage clips, with what says that they were not given.
_CLIPS_KEYS: dict[str, Any] = {
    "out": None,
    "data.root": None,
    "max_reject_ratio": None,
    "retry_rejects": False,
    "allow_leaks": False,
}


def parse_stage(config: DictConfig) -> PrepareConfig | FeaturesConfig:
    """The composed root configuration as that of its ``stage``.

    Raises:
        ConfigError: a key is unknown, missing, or of the other stage.
    """
    if build(Stage, config.stage, path="stage") is Stage.CLIPS:
        return parse(config, PrepareConfig)
    for key, absent in _CLIPS_KEYS.items():
        value = OmegaConf.select(config, key, throw_on_missing=False)
        if value != absent:
            raise ConfigError(
                f"{key}={value} belongs to stage=clips: stage=features writes below prepared= and "
                f"takes {', '.join(_FEATURES_KEYS)}; leave out {key}."
            )
    return parse(_given(OmegaConf.masked_copy(config, _FEATURES_KEYS)), FeaturesConfig)


def run_stage(
    config: PrepareConfig | FeaturesConfig, *, say: Callable[[str], None] = print
) -> None:
    """Prepare clips, or features of prepared clips; a Ray cluster must be connected."""
    if isinstance(config, FeaturesConfig):
        from avs.prepare.features_pipeline import prepare_features  # torch: only where needed

        prepare_features(config, say=say)
        return
    from avs.prepare.pipeline import prepare

    prepare(config, say=say)


def _given(config: DictConfig) -> DictConfig:
    """Without keys that are null: those are told to be missing."""
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    plain["model"] = {key: value for key, value in plain["model"].items() if value is not None}
    return OmegaConf.create({key: value for key, value in plain.items() if value is not None})
