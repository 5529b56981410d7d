"""Configuration of ``jobs/study.py``: which variants are trained on what, and how often."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field

from avs import storage
from avs.errors import ConfigError, DataError
from avs.scale import ScaleConfig
from avs.training.config import MixtureConfig
from avs.training.truth import source_video

__all__ = ["GroupsConfig", "StudyConfig", "read_groups"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(kw_only=True, slots=True)
class GroupsConfig:
    """A csv ``file`` that says which clips belong together: the official clip name in the column
    ``clip``, the name of its group (a picture, a recording) in ``group``."""

    file: str
    clip: str
    group: str


@dataclass(kw_only=True, slots=True)
class StudyConfig:
    """Each of ``variants`` is trained once a seed and tested with the true, a silent and another
    clip's sound.

    A variant is a list of overrides of ``jobs/train.py``, after the ``overrides`` that all share;
    ``more`` come last, for what is not the same everywhere, as the paths of weights.
    ``tests``: prepared folders whose test split is scored, by the name they have in the tables.
    ``baseline``: the variant that the others are compared with, null for none.
    ``groups``: null = clips of one source video belong together.
    ``scale.num_workers`` trainings run side by side, each on ``scale.cpus_per_worker`` CPUs.
    """

    data: MixtureConfig
    tests: dict[str, str]
    variants: dict[str, list[str]]
    overrides: list[str]
    seeds: list[int]
    scale: ScaleConfig
    out: str
    more: list[str] = field(default_factory=list)
    baseline: str | None = None
    groups: GroupsConfig | None = None

    def __post_init__(self) -> None:
        self.data.check_bare("a study")
        for key in ("tests", "variants"):
            names = getattr(self, key)
            odd = [name for name in names if not _NAME.fullmatch(name)]
            if odd or not names:
                told = f"{odd[0]!r} cannot be the name of a folder" if odd else "nothing is given"
                raise ConfigError(f"{key}: {told}: letters, digits and . _ - only")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds={self.seeds}: one or more, each once.")
        if self.baseline is not None and self.baseline not in self.variants:
            known = ", ".join(self.variants)
            raise ConfigError(f"baseline={self.baseline} is not a variant. Known: {known}.")


def read_groups(config: GroupsConfig | None, clip_ids: list[str], *, test: str) -> list[str]:
    """The group of each clip of the test set ``test``.

    Raises:
        DataError: the file lacks a column or a clip.
    """
    if config is None:
        return [source_video(clip_id) for clip_id in clip_ids]
    rows = list(csv.DictReader(io.StringIO(storage.read_bytes(config.file).decode())))
    missing = [key for key in (config.clip, config.group) if not rows or key not in rows[0]]
    if missing:
        raise DataError(f"{config.file} has no column {missing[0]}: name it in groups.")
    group_of = {row[config.clip]: row[config.group] for row in rows}
    names = [official_name(clip_id) for clip_id in clip_ids]
    absent = [name for name in names if name not in group_of]
    if absent:
        raise DataError(
            f"{config.file} has no row for {absent[0]} of tests.{test} (and {len(absent) - 1} "
            f"more): column {config.clip} must hold the official clip names."
        )
    return [group_of[name] for name in names]


def official_name(clip_id: str) -> str:
    """The name within ``dataset/subset/name[@start_ms]``."""
    name = clip_id.split("/", 2)[-1]
    head, at, start_ms = name.rpartition("@")
    return head if at and start_ms.isdigit() else name
