"""Read pre-trained weights from a path or a bucket; never fall back to a random start.

Only tensors and plain arrays are read: torch files with ``weights_only=True`` and numpy's numeric
arrays allowed (published files hold some), or safetensors, so a downloaded file cannot run code.
"random" is the caller's explicit choice and never reaches this module. Trade-off: a remote file is
read into memory whole (at most a few hundred MB here) instead of being cached on disk.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from avs import storage
from avs.errors import DataError, WeightsError

__all__ = ["hash_weights", "load_weights", "name_some", "read_weights_file", "tensors_of"]

WRAPPER_KEYS = ("state_dict", "model", "model_state_dict")
ARRAY_TYPES = ("float16", "float32", "float64", "int32", "int64", "uint8", "bool")


def load_weights(spec: str, *, wanted: str, where: str) -> dict[str, Tensor]:
    """Read a state dict, floating-point tensors as float32.

    spec: local path or s3://bucket/key; .safetensors, else a torch file.
    wanted: what the file should be, for the message ("ImageNet weights of pvt_v2_b5").
    where: where its authors publish it, for the message.
    Raises WeightsError when the file is missing, unreadable or holds no tensors.
    """
    return tensors_of(read_weights_file(spec, wanted=wanted, where=where))


def read_weights_file(spec: str, *, wanted: str, where: str) -> dict[str, Any]:
    """Read a checkpoint as it was saved: a state dict, or a dict that holds one and more.

    Arguments and errors as for :func:`load_weights`.
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
        content = _decode(data, suffix=Path(spec).suffix)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(f"weights {spec!r} are not a tensor file: {error}. {way_out}") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise WeightsError(f"weights {spec!r} are a {kind} instead of a state dict. {way_out}")
    if not tensors_of(content):
        raise WeightsError(f"weights {spec!r} hold no tensors. {way_out}")
    return content


def tensors_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict itself or the one inside a training checkpoint, without ``module.``."""
    for key in WRAPPER_KEYS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {
        name.removeprefix("module."): torch.as_tensor(value)
        for name, value in content.items()
        if isinstance(value, Tensor | np.ndarray)
    }
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in tensors.items()
    }


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """What tells these weights from others, whatever file they came from: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        array = value.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def name_some(names: list[str], *, limit: int = 5) -> str:
    """The first names and the count, for messages."""
    more = f", ... ({len(names)} in all)" if len(names) > limit else f" ({len(names)})"
    return ", ".join(names[:limit]) + more


def _decode(data: bytes, *, suffix: str) -> Any:
    if suffix == ".safetensors":
        return load_safetensors(data)
    with torch.serialization.safe_globals(_array_globals()):
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _array_globals() -> list[Any]:
    """What numpy pickles numeric arrays with; object arrays are not among them."""
    rebuild: Any = np.zeros(0).__reduce__()[0]
    scalar: Any = np.float64(0).__reduce__()[0]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since numpy 2
    named = [(f, f"{module}.{f.__name__}") for f in (rebuild, scalar) for module in modules]
    return [*named, np.ndarray, np.dtype, *(type(np.dtype(name)) for name in ARRAY_TYPES)]
