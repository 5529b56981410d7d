"""Read pre-trained weights from a path or a bucket; never fall back to a random start.

Only tensors are read: torch files with ``weights_only=True``, or safetensors, so a downloaded file
cannot run code. "random" is the caller's explicit choice and never reaches this module. Trade-off:
a remote file is read into memory whole (at most a few hundred MB here) instead of being cached on
disk.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from avs import storage
from avs.errors import DataError, WeightsError

__all__ = ["load_weights", "name_some"]

WRAPPER_KEYS = ("state_dict", "model", "model_state_dict")


def load_weights(spec: str, *, wanted: str, where: str) -> dict[str, Tensor]:
    """Read a state dict, floating-point tensors as float32.

    spec: local path or s3://bucket/key; .safetensors, else a torch file.
    wanted: what the file should be, for the message ("ImageNet weights of pvt_v2_b5").
    where: where its authors publish it, for the message.
    Raises WeightsError when the file is missing, unreadable or holds no tensors.
    """
    way_out = (
        f"Wanted: {wanted}, published at {where}. To start without it, say 'random' explicitly."
    )
    if not spec:
        raise WeightsError(f"no weights file given. {way_out}")
    try:
        data = storage.read_bytes(spec)
    except (OSError, ValueError, DataError) as error:
        raise WeightsError(
            f"cannot read weights {spec!r}: {str(error).rstrip('.')}. {way_out}"
        ) from error
    try:
        state = _tensors(_decode(data, suffix=Path(spec).suffix))
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(f"weights {spec!r} are not a tensor file: {error}. {way_out}") from error
    if not state:
        raise WeightsError(f"weights {spec!r} hold no tensors. {way_out}")
    return state


def name_some(names: list[str], *, limit: int = 5) -> str:
    """The first names and the count, for messages."""
    more = f", ... ({len(names)} in all)" if len(names) > limit else f" ({len(names)})"
    return ", ".join(names[:limit]) + more


def _decode(data: bytes, *, suffix: str) -> Any:
    if suffix == ".safetensors":
        return load_safetensors(data)
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _tensors(content: Any) -> dict[str, Tensor]:
    """The state dict itself or the one inside a training checkpoint."""
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__} instead of a state dict")
    for key in WRAPPER_KEYS:
        if isinstance(content.get(key), dict):
            content = content[key]
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in tensors.items()
    }
