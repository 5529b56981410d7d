"""What the prepared data decides of a training: classes, category names, the form of its clips.

Checked before the networks are built, so that data and configuration that do not fit end a run with
one line. A checkpoint keeps what is decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from avs.datasets import dataset_spec
from avs.errors import ConfigError
from avs.losses import LossConfig, LossKind
from avs.models import MODELS, ModelConfig
from avs.prepare.manifest import Manifest
from avs.training.clip_spec import ClipSpec
from avs.training.config import TrainConfig
from avs.training.feed import ClipReader

__all__ = [
    "category_names",
    "check_num_classes",
    "check_off_screen",
    "clip_spec",
    "loss_of",
    "with_val",
]


def with_val(reader: ClipReader) -> list[str]:
    """The folders that have a validation split."""
    return [
        folder
        for folder, manifest in reader.manifests.items()
        if any(shard.split == "val" for shard in manifest.shards)
    ]


def clip_spec(manifest: Manifest, size_px: int | None) -> ClipSpec:
    """What a checkpoint tells of its clips."""
    form = manifest.format
    return ClipSpec(
        num_frames=form.num_frames,
        image_size_px=size_px or form.height_px,
        class_names=form.class_names,
        audio_pad=dataset_spec(manifest.config["data"]["name"]).pad,
        audio_alignment=manifest.audio_alignment,
    )


def check_off_screen(config: TrainConfig, reader: ClipReader) -> None:
    """Without categories no sound is known to be another one's, so that no clip would be moved."""
    ratio = config.train.off_screen_ratio
    if ratio and not any(reader.categories()):
        raise ConfigError(
            f"train.off_screen_ratio={ratio}: no train clip of {', '.join(reader.manifests)} names "
            "a category, so no sound is known to be that of another one: prepare them with "
            "data.categories=PATH/metadata.csv, or give 0."
        )


def check_num_classes(asked: int, class_names: Sequence[str]) -> None:
    """1, as all models have it, means what the data has."""
    if asked not in (1, len(class_names)):
        raise ConfigError(
            f"model.num_classes={asked}: the prepared data has {len(class_names)} classes with the "
            "background, and training takes as many as the data; leave the key out."
        )


def loss_of(loss: LossConfig, class_names: Sequence[str]) -> LossConfig:
    """The same of the kind that the data has. Raises ConfigError for parts that do not fit it."""
    kind = LossKind.SEMANTIC if len(class_names) > 2 else LossKind.BINARY
    return replace(loss, kind=kind)


def category_names(model: ModelConfig, reader: ClipReader) -> list[str]:
    """Of the sounding objects: the classes of semantic data, else what the train clips name."""
    if not MODELS[model.name].names_categories:
        return model.category_names
    class_names = reader.manifest.format.class_names
    if len(class_names) > 2 and not model.category_names:
        return list(class_names[1:])
    named = sorted({name for own in reader.categories() for name in own})
    if not model.category_names:
        return named
    if not set(named) & set(model.category_names):
        raise ConfigError(
            f"model.category_names={model.category_names}: no train clip names one of them (they "
            f"name {', '.join(named[:10]) or 'none'}): leave the key out to take theirs."
        )
    return model.category_names
