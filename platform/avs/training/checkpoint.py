"""Checkpoint folders: self-describing, whole or absent, and runs that point to their best one.

A folder holds weights.safetensors, config.yaml, model_card.md, trainer_state.pt, lineage.json and,
written last, metrics.json: without it the folder is not a checkpoint. Without its frozen audio
network, a checkpoint keeps the hash of those weights, is smaller by up to 360 MB, and cannot be
used where their file is not. Epoch folders are never changed once written; ``last.json`` and
``best.json`` of a run point to them and are replaced atomically.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor

from avs import __version__, storage
from avs.config import build
from avs.errors import CheckpointError, DataError, WeightsError
from avs.media.logmel import Alignment
from avs.models.audio import AUDIO_NETWORKS, build_audio_network
from avs.models.config import ModelConfig
from avs.models.weights import hash_weights
from avs.training.clip_spec import ClipSpec
from avs.training.config import InferenceConfig
from avs.training.lineage import Lineage, write_lineage
from avs.training.resolve import LAST_WRITTEN, resolve_checkpoint

__all__ = [
    "CHECKPOINT_VERSION",
    "Checkpoint",
    "check_alignment",
    "copy_checkpoint",
    "load_checkpoint",
    "load_trainer_state",
    "resolve_checkpoint",
    "save_checkpoint",
]

CHECKPOINT_VERSION = 1
_AUDIO = "audio."  # the audio network in the state dict of a system


@dataclass(kw_only=True, slots=True)
class Checkpoint:
    """A loaded checkpoint; ``weights`` is the state dict of :class:`avs.models.AvsSystem`."""

    uri: str
    model: ModelConfig
    clip: ClipSpec
    inference: InferenceConfig
    metrics: dict[str, Any]
    weights: dict[str, Tensor]


def save_checkpoint(
    uri: str,
    *,
    weights: dict[str, Tensor],
    config: dict[str, Any],
    clip: ClipSpec,
    metrics: dict[str, Any],
    card: str,
    trainer_state: dict[str, Any] | None,
    leave_out_audio: bool = False,
    lineage: Lineage | None = None,
) -> None:
    """Write a checkpoint folder; what is there is not whole any more, then overwritten.

    ``trainer_state`` None: nobody can go on training from it. ``leave_out_audio``: the hash of the
    audio network's weights instead of the weights, which :func:`load_checkpoint` then reads from
    ``model.audio_weights``.
    """
    head = {"checkpoint_version": CHECKPOINT_VERSION, "avs_version": __version__}
    if leave_out_audio:
        head["audio_hash"] = hash_weights(_audio_part(weights))
        weights = {name: v for name, v in weights.items() if not name.startswith(_AUDIO)}
    clip_plain = {
        "num_frames": clip.num_frames,
        "image_size_px": clip.image_size_px,
        "class_names": list(clip.class_names),
        "audio_pad": clip.audio_pad,
        "audio_alignment": clip.audio_alignment.value,
    }
    text = yaml.safe_dump({**head, "clip": clip_plain, **config}, sort_keys=False)
    storage.remove(storage.join(uri, LAST_WRITTEN))
    storage.remove_temporaries(uri)
    contiguous = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
    storage.write_bytes(storage.join(uri, "config.yaml"), text.encode())
    storage.write_bytes(
        storage.join(uri, "weights.safetensors"), safetensors.torch.save(contiguous)
    )
    storage.write_bytes(storage.join(uri, "model_card.md"), card.encode())
    if trainer_state is not None:
        state = io.BytesIO()
        torch.save(trainer_state, state)
        storage.write_bytes(storage.join(uri, "trainer_state.pt"), state.getvalue())
    if lineage is not None:
        write_lineage(uri, lineage)
    storage.write_json(storage.join(uri, LAST_WRITTEN), metrics)


def load_checkpoint(uri: str) -> Checkpoint:
    """Read a checkpoint folder, or the best one of a run, a sweep, a study or a folder of these.

    Raises:
        CheckpointError: missing, incomplete, or of another version, or without its audio weights;
            says what to do.
    """
    uri = resolve_checkpoint(uri)
    try:
        plain = yaml.safe_load(storage.read_bytes(storage.join(uri, "config.yaml")))
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{uri}/config.yaml cannot be read: {reason}") from None
    version = plain.get("checkpoint_version") if isinstance(plain, dict) else None
    if version != CHECKPOINT_VERSION:
        raise CheckpointError(
            f"{uri}/config.yaml has checkpoint_version {version}, this code reads "
            f"{CHECKPOINT_VERSION}: use the avs version that wrote it, or train again."
        )
    absent = [key for key in ("clip", "model", "inference") if key not in plain]
    if absent:
        raise CheckpointError(f"{uri}/config.yaml has no {absent[0]}: it is not whole.")
    try:
        weights = safetensors.torch.load(storage.read_bytes(f"{uri}/weights.safetensors"))
    except (safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(f"{uri}/weights.safetensors cannot be read: {error}") from None
    model = build(ModelConfig, plain["model"], path="model")
    if "audio_hash" in plain:
        weights |= _outside_audio(model, plain["audio_hash"], uri)
    return Checkpoint(
        uri=uri,
        model=model,
        clip=_clip_spec(plain["clip"], uri),
        inference=build(InferenceConfig, plain["inference"], path="inference"),
        metrics=storage.read_json(storage.join(uri, LAST_WRITTEN)),
        weights=weights,
    )


def _clip_spec(plain: dict[str, Any], uri: str) -> ClipSpec:
    alignment = build(
        Alignment,
        plain.get("audio_alignment", Alignment.AVSBENCH),  # older checkpoints do not name it
        path=f"{uri}/config.yaml: clip.audio_alignment",
    )
    names = tuple(plain["class_names"])
    return ClipSpec(**{**plain, "class_names": names, "audio_alignment": alignment})


def check_alignment(checkpoint: Checkpoint, alignment: Alignment, *, prepared: str) -> None:
    """Refuse prepared data whose log-mel examples are aligned otherwise than in the training.

    Networks that hear waveforms are spared: theirs are whole seconds under either.

    Raises:
        DataError: names the key and what to do.
    """
    network = AUDIO_NETWORKS[checkpoint.model.audio_network].build
    trained = checkpoint.clip.audio_alignment
    if network.input_kind == "log_mel" and alignment is not trained:
        raise DataError(
            f"{prepared} was prepared with data.audio.alignment={alignment.value}, but "
            f"{checkpoint.uri} was trained with {trained.value}: prepare the data again with "
            f"data.audio.alignment={trained.value} into another out=."
        )


def _audio_part(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The audio network's own state dict."""
    return {n.removeprefix(_AUDIO): v for n, v in weights.items() if n.startswith(_AUDIO)}


def _outside_audio(model: ModelConfig, audio_hash: str, uri: str) -> dict[str, Tensor]:
    """The audio weights that a checkpoint was trained with and does not hold."""
    cure = f"put the file there, or change model.audio_weights in {uri}/config.yaml"
    try:
        network = build_audio_network(model.audio_network, weights=model.audio_weights)
    except WeightsError as error:
        raise CheckpointError(
            f"{uri} does not hold its audio weights (checkpoint.self_contained=false): {error} "
            f"For this checkpoint {cure}."
        ) from error
    found = hash_weights(network.state_dict())
    if found != audio_hash:
        raise CheckpointError(
            f"{uri} was trained with audio weights of hash {audio_hash}, but "
            f"model.audio_weights={model.audio_weights!r} has {found}: {cure}."
        )
    return {f"{_AUDIO}{name}": value for name, value in network.state_dict().items()}


def copy_checkpoint(source: str, target: str) -> None:
    """Copy a resolved checkpoint folder; the file that makes it complete comes last."""
    storage.remove(target)
    files = sorted(storage.list_files(source), key=lambda info: info.path == LAST_WRITTEN)
    for info in files:
        data = storage.read_bytes(storage.join(source, info.path))
        storage.write_bytes(storage.join(target, info.path), data)


def load_trainer_state(uri: str) -> dict[str, Any]:
    """The optimiser and bookkeeping of a checkpoint, read without unpickling objects.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    name = storage.join(uri, "trainer_state.pt")
    if not storage.exists(name):
        raise CheckpointError(f"{name} does not exist: this checkpoint cannot be gone on with.")
    data = io.BytesIO(storage.read_bytes(name))
    try:
        state: dict[str, Any] = torch.load(data, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{name} cannot be read: {str(error).splitlines()[0]}") from None
    return state
