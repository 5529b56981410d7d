"""The authors' weights as a checkpoint folder: evaluated, used and served like a trained one.

A published file holds the segmenter under the authors' names and nothing about how it is used, so
the recipe says the network, the data set says frames, classes and padding, and the audio network,
which the authors keep frozen and apart, comes from its own file. Nothing is trained: the folder has
no trainer state, and its metrics are empty.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import yaml

from avs import storage
from avs.config import dump
from avs.datasets import DataConfig, dataset_spec
from avs.datasets.avss_metadata import AVSS_CLASSES
from avs.errors import ConfigError, WeightsError
from avs.lease import LEASE_NAME, Lease
from avs.media.logmel import Alignment
from avs.models import MODELS, AvsSystem, ModelConfig, build_system, import_official
from avs.models.weights import decode_weights, read_weights_bytes, skip_random_init
from avs.training.card import imported_card
from avs.training.checkpoint import save_checkpoint
from avs.training.clip_spec import ClipSpec
from avs.training.config import InferenceConfig

__all__ = ["ImportConfig", "import_checkpoint"]


@dataclass(kw_only=True, slots=True)
class ImportConfig:
    """``official`` is the authors' file (a path, ``s3://`` or ``hf-hub:OWNER/REPO/FILE``), ``out``
    the checkpoint folder that is made of it.

    ``model`` is the network that the file was saved from, best taken from its recipe with
    ``experiment=``; only ``model.audio_weights`` is read beside it. ``data`` is the data set that
    it was trained for; ``data.root`` is needed for class names that lie there alone. ``loss``,
    ``train``, ``scale`` and ``seed`` come with a recipe and count for nothing.
    """

    official: str
    data: DataConfig
    model: ModelConfig
    inference: InferenceConfig
    out: str
    loss: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    scale: dict[str, Any] = field(default_factory=dict)
    seed: int = 0


def import_checkpoint(config: ImportConfig, *, say: Callable[[str], None] = print) -> str:
    """Write the checkpoint folder; an earlier import there is replaced. Returns its URI.

    Raises:
        ConfigError: no weights for the audio network, or ``out`` holds something else.
        WeightsError: a file is missing, or ``official`` is not of this model; names what it is.
    """
    if config.model.audio_weights == "random":
        raise ConfigError(
            "model.audio_weights=random: the authors' file holds no audio network, and the rest "
            f"was trained with theirs. Give the file of {config.model.audio_network}."
        )
    if config.data.audio.alignment is not Alignment.AVSBENCH:
        raise ConfigError(
            f"data.audio.alignment={config.data.audio.alignment.value}: the authors' networks were "
            "trained with avsbench."
        )
    out = storage.absolute(config.out)
    clip = _clip(config.data)
    num_classes = len(clip.class_names)
    model = replace(config.model, num_classes=num_classes if num_classes > 2 else 1)
    _refuse_other_content(out)
    system, sha256 = _read_system(config, model=model)
    with Lease(out, job="import_official", say=say) as lease:
        _refuse_other_content(out)
        lease.check()
        _save(out, config=config, model=model, clip=clip, system=system, sha256=sha256)
    say(f"import_official: {config.official} is now the checkpoint {out}")
    return out


def _clip(data: DataConfig) -> ClipSpec:
    """What training on this data set, prepared, would write."""
    return ClipSpec(
        num_frames=data.num_frames,
        image_size_px=data.image_size_px,
        class_names=_class_names(data),
        audio_pad=dataset_spec(data.name).pad,
        audio_alignment=data.audio.alignment,
    )


def _class_names(data: DataConfig) -> tuple[str, ...]:
    """Names in index order; those of AVSS are known without its folder."""
    if not data.root and data.name == "avss":
        return AVSS_CLASSES
    if not data.root and data.name == "labelled":
        raise ConfigError("data.root is not set: the class names of data=labelled lie there")
    return dataset_spec(data.name).class_names(data)


def _refuse_other_content(out: str) -> None:
    """Only an earlier import, or the beginning of one, is written over."""
    names = [info.path for info in storage.list_files(out) if info.path != LEASE_NAME]
    if not names:
        return
    uri = storage.join(out, "config.yaml")
    if "config.yaml" in names and "imported" in (yaml.safe_load(storage.read_bytes(uri)) or {}):
        return
    raise ConfigError(f"out={out} holds something else ({names[0]}): give another out=.")


def _read_system(config: ImportConfig, *, model: ModelConfig) -> tuple[AvsSystem, str]:
    """Both networks with their published weights, and the hash of the official file."""
    spec = config.official
    way_out = (
        f"Wanted: the authors' checkpoint of {model.name} with {model.backbone} for "
        f"{config.data.name}, see {MODELS[model.name].origin.where}; give it as official=."
    )
    if "://" not in spec and storage.is_folder(spec):
        raise WeightsError(
            f"official={spec!r} is a folder. {way_out} A checkpoint folder of this package is "
            "used as it is: give it as checkpoint= to the other jobs."
        )
    data = read_weights_bytes(spec, way_out=way_out)
    content = decode_weights(data, spec=spec, way_out=way_out)
    with skip_random_init():
        system = build_system(replace(model, backbone_weights="random"))
    try:
        import_official(system.segmenter, content)
    except WeightsError as error:
        raise WeightsError(
            f"official={spec!r}: {error}. Built from model and data: {model.name} with "
            f"{model.backbone}, num_classes={model.num_classes}, {model.audio_network}; give the "
            "experiment= and data= that the file belongs to."
        ) from error
    return system.eval(), hashlib.sha256(data).hexdigest()


def _save(
    out: str,
    *,
    config: ImportConfig,
    model: ModelConfig,
    clip: ClipSpec,
    system: AvsSystem,
    sha256: str,
) -> None:
    name = PurePosixPath(config.official).name
    save_checkpoint(
        out,
        weights=system.state_dict(),
        config={
            "imported": {"official": config.official, "sha256": sha256, "data": config.data.name},
            "model": dump(replace(model, backbone_weights=config.official)),
            "inference": dump(config.inference),
        },
        clip=clip,
        metrics={},
        card=imported_card(model, clip=clip, data=config.data.name, official=name, sha256=sha256),
        trainer_state=None,
    )
