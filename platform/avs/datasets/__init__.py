"""Data sets: where the clips are. To add one: a module, a line in ``DATASETS``, a YAML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from avs.config import choice_error
from avs.datasets.avsbench_object import list_ms3, list_s4
from avs.datasets.avsbench_semantic import avss_class_names, list_avss
from avs.datasets.base import (
    AudioConfig,
    AudioSource,
    ClipSource,
    DataConfig,
    Instance,
    MaskKind,
    MediaSource,
    MissingSound,
)
from avs.datasets.folder import list_folder
from avs.datasets.labelled import labelled_class_names, list_labelled
from avs.datasets.synthetic import Layout
from avs.datasets.tree import metadata_notes
from avs.datasets.vpo import list_vpo, vpo_class_names
from avs.errors import DataError
from avs.media.video import Sampling

__all__ = [
    "DATASETS",
    "AudioConfig",
    "AudioSource",
    "ClipSource",
    "DataConfig",
    "DatasetSpec",
    "Instance",
    "MaskKind",
    "MediaSource",
    "MissingSound",
    "dataset_spec",
    "metadata_notes",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSpec:
    """How one data set is read.

    ``sampling`` is the rule for the frame times of raw videos; ``pad`` says what fills clips with
    too little sound (AVSBench-object repeats the last second, AVSBench-semantic adds zeros).
    ``crop_train`` is AVSBench-semantic's rule for pictures: of train clips the centre is cut from
    the short side, those of other splits are stretched, both by Pillow's filter.
    """

    list_clips: Callable[[DataConfig], list[ClipSource]]
    class_names: Callable[[DataConfig], tuple[str, ...]]
    sampling: Sampling = Sampling.OFFICIAL
    pad: Literal["repeat", "zero"] = "repeat"
    crop_train: bool = False


def _binary_names(_: DataConfig) -> tuple[str, ...]:
    return ("background", "sounding")


def _list_synthetic(config: DataConfig) -> list[ClipSource]:
    if config.synthetic is None:
        raise DataError("data.name=synthetic needs the group data.synthetic.")
    return (list_s4 if config.synthetic.layout is Layout.S4 else list_ms3)(config)


DATASETS: dict[str, DatasetSpec] = {
    "s4": DatasetSpec(list_clips=list_s4, class_names=_binary_names),
    "ms3": DatasetSpec(list_clips=list_ms3, class_names=_binary_names),
    "avss": DatasetSpec(
        list_clips=list_avss, class_names=avss_class_names, pad="zero", crop_train=True
    ),
    "vpo": DatasetSpec(list_clips=list_vpo, class_names=vpo_class_names),
    "folder": DatasetSpec(
        list_clips=list_folder, class_names=_binary_names, sampling=Sampling.TIME
    ),
    "labelled": DatasetSpec(
        list_clips=list_labelled, class_names=labelled_class_names, sampling=Sampling.TIME
    ),
    "synthetic": DatasetSpec(list_clips=_list_synthetic, class_names=_binary_names),
}


def dataset_spec(name: str) -> DatasetSpec:
    """The entry of ``DATASETS``; an unknown name lists the known ones."""
    if name not in DATASETS:
        raise choice_error("data.name", name, list(DATASETS))
    return DATASETS[name]
