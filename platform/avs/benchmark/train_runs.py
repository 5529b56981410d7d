"""One training of stage ``train``, as the job takes it and as the bare scripts do, and its files.

The bare scripts get the configuration that the job's overrides make, so that both sides train the
same by construction; what the scripts do not do is refused before anything is measured.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from avs import storage
from avs.benchmark.process import Usage, run_measured
from avs.config import dump
from avs.errors import ConfigError, DataError
from avs.losses import LossKind
from avs.models import AUDIO_NETWORKS
from avs.overrides import compose_as
from avs.prepare.features_files import FEATURES
from avs.prepare.manifest import Manifest, read_manifest
from avs.training.config import TrainConfig

__all__ = ["Training", "measured"]

# What the bare scripts do not do, at the values that leave it out.
_WITHOUT: dict[str, object] = {
    "data.weights": None,
    "scale.gpus_per_worker": 0,
    "train.accumulate_steps": 1,
    "train.ema_decay": None,
    "train.frozen_backbone_epochs": 0,
    "train.init_from": None,
    "train.max_gradient_norm": None,
}
_FIXED = ("train.image_size_px=null",)  # as prepared: the bare scripts do not resize


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """``overrides`` of ``jobs/train.py``, which lies in ``jobs``, on the clips of ``prepared``.

    more: overrides that the bare scripts need not follow.
    """

    jobs: Path
    prepared: Path
    overrides: tuple[str, ...]
    more: tuple[str, ...] = ()

    def command(self, out: Path) -> list[str]:
        """The job, which leaves a run in ``out``."""
        given = [*self._overrides, *self.more, f"out='{out}'"]
        return [sys.executable, str(self.jobs / "train.py"), *given]

    def config(self) -> TrainConfig:
        """What the bare scripts follow, with what the data decides.

        Raises:
            ConfigError: they cannot. DataError: ``prepared`` is no prepared data, or has more than
                they use.
        """
        config = compose_as(
            TrainConfig, "train", [*self._overrides, "out=unused"], key="train.overrides"
        )
        _check_plain(config)
        if storage.exists(str(self.prepared / FEATURES)):
            raise DataError(
                f"{self.prepared} has {FEATURES}/, which the job may use and the bare scripts do "
                "not: give train.prepared=DIR without."
            )
        class_names = self.manifest.format.class_names
        if len(class_names) > 2:
            config.model = replace(config.model, num_classes=len(class_names))
            config.loss = replace(config.loss, kind=LossKind.SEMANTIC)
        return config

    @property
    def manifest(self) -> Manifest:
        """Of ``prepared``."""
        return read_manifest(str(self.prepared))

    @property
    def _overrides(self) -> list[str]:
        return [*self.overrides, *_FIXED, f"data.prepared='{self.prepared}'"]


def measured(
    target: Path,
    command: Callable[[Path], list[str]],
    figures: Callable[[Path, Usage], Mapping[str, float]],
    *,
    config: TrainConfig,
) -> Mapping[str, float]:
    """Run ``command(target)`` and read what it left in ``target``, which is empty before but for
    ``config.json`` beside it and gone after.

    Raises:
        AvsError: the command failed.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    config_path(target).write_text(json.dumps(dump(config)))
    usage = run_measured(command(target), num_threads=config.train.num_threads)
    found = figures(target, usage)
    shutil.rmtree(target)
    config_path(target).unlink()
    return found


def config_path(target: Path) -> Path:
    """Where :func:`measured` leaves the configuration for a bare script."""
    return target.with_name(f"{target.name}.json")


def _check_plain(config: TrainConfig) -> None:
    for key, value in _WITHOUT.items():
        found: Any = reduce(getattr, key.split("."), config)
        if found != value:
            raise ConfigError(
                f"train.overrides: {key}={found} is not what the bare scripts train with; give "
                f"{key}={'null' if value is None else value}."
            )
    network = config.model.audio_network
    if AUDIO_NETWORKS[network].build.input_kind != "log_mel":
        raise ConfigError(
            f"train.overrides: model.audio_network={network} hears waveforms, the bare scripts "
            "read log-mel examples; give one that takes these."
        )
