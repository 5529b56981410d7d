"""Stored log-mels (``audio_log_mel/*.pkl``) without unpickling them.

The official files are ``pickle.dump`` of a torch tensor, and a pickle may call anything. Here its
operations are carried out by :mod:`avs.media.pickle_machine`, which calls nothing. What comes out
must be exactly a torch tensor around one CPU storage, of shape [n, 1, 96, 64]. Other ways to store
a tensor (a numpy array, a list, the zip form of ``torch.save``) are refused: no official file has
them.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avs.errors import MediaError
from avs.media.pickle_machine import Call, Name, load_plain

__all__ = ["MAX_LOG_MEL_BYTES", "read_log_mel_pickle"]

MAX_LOG_MEL_BYTES = 4 * 1024 * 1024  # 170 examples; bounds the time that a made-up file can take
_EXAMPLE_SHAPE = (1, 96, 64)

_TENSOR = ("torch._utils", "_rebuild_tensor_v2")
_STORAGE = ("torch.storage", "_load_from_bytes")
_HOOKS = ("collections", "OrderedDict")
_DTYPES = {("torch", "FloatStorage"): "<f4", ("torch", "DoubleStorage"): "<f8"}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_NAMES = (_TENSOR, _STORAGE, _HOOKS, *_DTYPES)


def read_log_mel_pickle(data: bytes, name: str = "log-mel") -> NDArray[np.float32]:
    """The log-mel of an official file, float32 [n, 1, 96, 64], n >= 1.

    Raises:
        MediaError: anything but a pickled torch tensor of that shape with finite values; the
            message begins with ``name``.
    """
    if len(data) > MAX_LOG_MEL_BYTES:
        raise MediaError(f"{name}: {len(data)} bytes are too many for a log-mel")
    try:
        return _tensor(_next_value(io.BytesIO(data)))
    except MediaError as error:
        raise MediaError(f"{name}: {error}") from None
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise MediaError(f"{name}: is not a pickled log-mel tensor ({_short(error)})") from None


def _next_value(stream: io.BytesIO) -> Any:
    return load_plain(stream, allowed=_NAMES)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:100]}"


def _tensor(value: Any) -> NDArray[np.float32]:
    if not isinstance(value, Call) or value.path != _TENSOR:
        raise MediaError(f"holds {_described(value)}, not a torch tensor")
    storage, offset, shape, strides = value.arguments[:4]
    if not isinstance(storage, Call) or storage.path != _STORAGE:
        raise MediaError(f"its tensor is made from {_described(storage)}, not from a storage")
    (data,) = storage.arguments
    values = _storage_values(data)
    if not _is_shape(shape):
        found = list(shape) if _is_numbers(shape) else _described(shape)
        raise MediaError(f"holds a tensor of shape {found}, not [n, 1, 96, 64]")
    result = _strided(values, offset, shape, strides).astype(np.float32)
    if not np.isfinite(result).all():
        raise MediaError("holds values that are not finite")
    return result


def _is_shape(shape: Any) -> bool:
    return _is_numbers(shape) and len(shape) == 4 and shape[0] >= 1 and shape[1:] == _EXAMPLE_SHAPE


def _is_numbers(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) < 9 and all(type(n) is int for n in value)


def _strided(
    values: NDArray[Any], offset: Any, shape: tuple[int, ...], strides: Any
) -> NDArray[Any]:
    """The view that torch would make, after checking that it stays inside ``values``."""
    if type(offset) is not int or not _is_numbers(strides) or len(strides) != len(shape):
        raise MediaError("its tensor has no valid strides")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    fits = min(offset, *strides) >= 0 and last < len(values)
    if not fits or int(np.prod(shape, dtype=object)) > len(values):
        raise MediaError(f"its tensor of shape {list(shape)} does not fit its {len(values)} values")
    steps = tuple(step * values.itemsize for step in strides)
    return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False)


def _storage_values(data: bytes) -> NDArray[Any]:
    """The numbers of a storage in torch's legacy form: five pickles, then length and raw values."""
    stream = io.BytesIO(data)
    if _next_value(stream) != _LEGACY_MAGIC or _next_value(stream) != _LEGACY_VERSION:
        raise MediaError("its storage is not in torch's legacy form")
    if _next_value(stream).get("little_endian") is not True:
        raise MediaError("its storage is not little-endian")
    reference, keys = _next_value(stream), _next_value(stream)
    kind, storage_class, key, _, count = reference.key[:5]
    is_alone = isinstance(key, str) and len(keys) == 1 and keys[0] == key
    if kind != "storage" or storage_class.path not in _DTYPES or not is_alone:
        raise MediaError(f"its storage holds {_described(storage_class)}, not one float storage")
    dtype = np.dtype(_DTYPES[storage_class.path])
    raw = data[stream.tell() :]
    if int.from_bytes(raw[:8], "little") != count or len(raw) != 8 + count * dtype.itemsize:
        raise MediaError("its storage is cut off")
    return np.frombuffer(raw, dtype, offset=8)


def _described(value: Any) -> str:
    if isinstance(value, (Name, Call)):
        return ".".join(value.path)
    return f"a {type(value).__name__}"
