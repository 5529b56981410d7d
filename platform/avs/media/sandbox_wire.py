"""Messages between a process and its decoder child: a JSON header and raw arrays.

Nothing is unpickled, because the child may be in the hands of a hostile file: what it sends is
text of a limited length, arrays of a few known types whose size is checked before memory is taken
for it, and dataclasses that are rebuilt field by field against their type hints.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
import socket
import time
import types
import typing
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["WireError", "pack", "rebuild", "receive_message", "send_message"]

_MAX_HEADER_BYTES = 1 << 20
_LENGTH_BYTES = 4
_MAX_DIMENSIONS = 4
_DTYPES = ("|u1", "<i2", "<f4", "<f8")
_SCALARS = {int: (int,), float: (float, int), str: (str,), bool: (bool,)}


class WireError(Exception):
    """A message that breaks the format or its limits."""


def send_message(
    connection: socket.socket, header: dict[str, Any], arrays: Sequence[NDArray[Any]] = ()
) -> None:
    """Send ``header`` (JSON values) and the arrays that it refers to."""
    described = [{"dtype": a.dtype.str, "shape": a.shape} for a in arrays]
    text = json.dumps({"header": header, "arrays": described}).encode()
    connection.sendall(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
    for array in arrays:
        if array.nbytes:
            connection.sendall(np.ascontiguousarray(array).data.cast("B"))


def receive_message(
    connection: socket.socket, *, max_bytes: int, deadline_s: float | None
) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Header and arrays of the next message.

    ``max_bytes`` bounds the arrays together, ``deadline_s`` is a time of ``time.monotonic()``.
    Raises EOFError when the other side has gone, TimeoutError, and WireError for what is no
    message; after any of them the connection is of no more use.
    """
    length = int.from_bytes(_receive(connection, _LENGTH_BYTES, deadline_s), "little")
    if length > _MAX_HEADER_BYTES:
        raise WireError(f"a header of {length} bytes")
    try:
        message = json.loads(_receive(connection, length, deadline_s))
        header, described = message["header"], message["arrays"]
        layouts = [(str(d["dtype"]), tuple(d["shape"])) for d in described]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WireError(f"a header that cannot be read ({type(error).__name__})") from None
    if not isinstance(header, dict):
        raise WireError("a header that is no object")
    _check_layouts(layouts, max_bytes)
    arrays = []
    for dtype, shape in layouts:
        array: NDArray[Any] = np.empty(shape, np.dtype(dtype))
        if array.nbytes:
            _receive_into(connection, array.data.cast("B"), deadline_s)
        arrays.append(array)
    return header, arrays


def _check_layouts(layouts: list[tuple[str, tuple[Any, ...]]], max_bytes: int) -> None:
    num_bytes = 0
    for dtype, shape in layouts:
        if dtype not in _DTYPES or len(shape) > _MAX_DIMENSIONS:
            raise WireError(f"an array of type {dtype[:10]!r} with {len(shape)} dimensions")
        if not all(type(n) is int and 0 <= n <= max_bytes for n in shape):
            raise WireError("an array of an impossible shape")
        num_bytes += math.prod(shape) * np.dtype(dtype).itemsize
    if num_bytes > max_bytes:
        raise WireError(f"arrays of {num_bytes} bytes, more than {max_bytes}")


def _receive(connection: socket.socket, num_bytes: int, deadline_s: float | None) -> bytes:
    data = bytearray(num_bytes)
    _receive_into(connection, memoryview(data), deadline_s)
    return bytes(data)


def _receive_into(connection: socket.socket, target: memoryview, deadline_s: float | None) -> None:
    while len(target):
        if deadline_s is not None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            connection.settimeout(left_s)
        count = connection.recv_into(target)
        if not count:
            raise EOFError
        target = target[count:]


def pack(value: Any, arrays: list[NDArray[Any]]) -> Any:
    """``value`` as JSON values; arrays in it are appended to ``arrays`` and referred to."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: pack(getattr(value, name), arrays) for name in names}
    if isinstance(value, tuple):
        return [pack(item, arrays) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def rebuild(kind: Any, value: Any, arrays: Sequence[NDArray[Any]]) -> Any:
    """The object of type hint ``kind`` that :func:`pack` took apart; raises WireError.

    Known are dataclasses, ``NDArray[...]``, ``X | None``, tuples of one type, enums by value,
    numbers, text and bool.
    """
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = _hints(kind)
        names = [field.name for field in dataclasses.fields(kind)]
        if not isinstance(value, dict) or sorted(value) != sorted(names):
            raise WireError(f"no {kind.__name__}")
        return kind(**{name: rebuild(hints[name], value[name], arrays) for name in names})
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is np.ndarray:
        return _array(value, arrays, np.dtype(typing.get_args(parts[1])[0]))
    if origin in (types.UnionType, typing.Union):
        (plain,) = (part for part in parts if part is not type(None))
        return None if value is None else rebuild(plain, value, arrays)
    if origin is tuple and isinstance(value, list):
        return tuple(rebuild(parts[0], item, arrays) for item in value)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)
    if type(value) not in _SCALARS.get(kind, ()):
        raise WireError(f"{type(value).__name__} in place of {kind}")
    return value


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _array(value: Any, arrays: Sequence[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    index = value.get("array") if isinstance(value, dict) else None
    if type(index) is not int or not 0 <= index < len(arrays) or arrays[index].dtype != dtype:
        raise WireError(f"no array of {dtype}")
    return arrays[index]
