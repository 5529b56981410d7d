"""Stored log-mels (``audio_log_mel/*.pkl``) without unpickling them.

The official files are ``pickle.dump`` of a torch tensor, and a pickle may call anything. Here its
operations are read one by one and only those that build plain values are carried out; a function
that the file names is kept as its name and never looked up or called. What comes out must then be
exactly a torch tensor around one CPU storage, of shape [n, 1, 96, 64]. Other ways to store a tensor
(a numpy array, a list, the zip form of ``torch.save``) are refused: no official file has them.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avs.errors import MediaError

__all__ = ["MAX_LOG_MEL_BYTES", "read_log_mel_pickle"]

MAX_LOG_MEL_BYTES = 4 * 1024 * 1024  # 170 examples; bounds the time that a made-up file can take
_EXAMPLE_SHAPE = (1, 96, 64)

_TENSOR = ("torch._utils", "_rebuild_tensor_v2")
_STORAGE = ("torch.storage", "_load_from_bytes")
_HOOKS = ("collections", "OrderedDict")
_DTYPES = {("torch", "FloatStorage"): "<f4", ("torch", "DoubleStorage"): "<f8"}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001


@dataclass(frozen=True, slots=True)
class _Name:
    """A function or class that the file names."""

    path: tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that the file asks for."""

    path: tuple[str, str]
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Persistent:
    """A reference to something outside the pickle."""

    key: Any


def read_log_mel_pickle(data: bytes, name: str = "log-mel") -> NDArray[np.float32]:
    """The log-mel of an official file, float32 [n, 1, 96, 64], n >= 1.

    Raises:
        MediaError: anything but a pickled torch tensor of that shape with finite values; the
            message begins with ``name``.
    """
    if len(data) > MAX_LOG_MEL_BYTES:
        raise MediaError(f"{name}: {len(data)} bytes are too many for a log-mel")
    try:
        return _tensor(_load(io.BytesIO(data)))
    except MediaError as error:
        raise MediaError(f"{name}: {error}") from None
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise MediaError(f"{name}: is not a pickled log-mel tensor ({_short(error)})") from None


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:100]}"


def _tensor(value: Any) -> NDArray[np.float32]:
    if not isinstance(value, _Call) or value.path != _TENSOR:
        raise MediaError(f"holds {_described(value)}, not a torch tensor")
    storage, offset, shape, strides = value.arguments[:4]
    if not isinstance(storage, _Call) or storage.path != _STORAGE:
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
    if _load(stream) != _LEGACY_MAGIC or _load(stream) != _LEGACY_VERSION:
        raise MediaError("its storage is not in torch's legacy form")
    if _load(stream).get("little_endian") is not True:
        raise MediaError("its storage is not little-endian")
    reference, keys = _load(stream), _load(stream)
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
    if isinstance(value, (_Name, _Call)):
        return ".".join(value.path)
    return f"a {type(value).__name__}"


@dataclass(slots=True)
class _Machine:
    """The stack of a pickle: values, marks (positions on the stack) and the memo."""

    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def above_mark(self) -> list[Any]:
        first = self.marks.pop()
        items = self.stack[first:]
        del self.stack[first:]
        return items

    def push_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise ValueError("stack is empty")
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.stack.append(items)

    def set_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or not all(type(k) is str for k in items[::2]):
            raise TypeError("items for something that is no dict, or keys that are no text")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def push_name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise TypeError("a function whose name is no text")
        path = (module, name)
        if path not in (_TENSOR, _STORAGE, _HOOKS, *_DTYPES):
            raise MediaError(f"asks for {'.'.join(path)}, which no log-mel needs: not opened")
        self.stack.append(_Name(path))

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise TypeError("a call of something that is no function")
        self.stack.append(_Call(function.path, arguments))


def _load(stream: io.BytesIO) -> Any:
    """The value of the pickle at the position of ``stream``, made of plain values and names."""
    machine = _Machine()
    while code := stream.read(1):
        opcode = _BY_CODE.get(code.decode("latin-1"))
        name = opcode.name if opcode else repr(code)
        if name == "STOP":
            return machine.stack.pop()
        if opcode is None or (name not in _CONSTANTS and name not in _OPERATIONS):
            raise MediaError(f"holds the operation {name}, which no log-mel needs")
        if name == "GLOBAL":  # pickletools would undo escapes, which no name needs
            argument: Any = tuple(stream.readline().decode("ascii").rstrip("\n") for _ in range(2))
        else:
            argument = opcode.arg.reader(stream) if opcode.arg else None
        if name in _CONSTANTS:
            machine.stack.append(_CONSTANTS[name](argument))
        else:
            _OPERATIONS[name](machine, argument)
    raise MediaError("is cut off")


def _append(machine: _Machine, items: list[Any]) -> None:
    if not isinstance(machine.stack[-1], list):
        raise TypeError("items for something that is no list")
    machine.stack[-1].extend(items)


def _name_from_stack(machine: _Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.push_name(module, name)


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.set_items([key, value])


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _itself(value: Any) -> Any:
    return value


_BY_CODE = {opcode.code: opcode for opcode in pickletools.opcodes}

_CONSTANTS: dict[str, Callable[[Any], Any]] = {
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), _itself),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"), _itself),
    "BINBYTES8": _itself,
}

_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda *_: None),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.above_mark())),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "APPEND": lambda machine, _: _append(machine, [machine.stack.pop()]),
    "APPENDS": lambda machine, _: _append(machine, machine.above_mark()),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.above_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _put),
    "MEMOIZE": lambda machine, _: _put(machine, len(machine.memo)),
    **dict.fromkeys(
        ("BINGET", "LONG_BINGET"), lambda machine, key: machine.stack.append(machine.memo[key])
    ),
    "GLOBAL": lambda machine, path: machine.push_name(*path),
    "STACK_GLOBAL": _name_from_stack,
    "REDUCE": lambda machine, _: machine.call(),
    "BINPERSID": lambda machine, _: machine.stack.append(_Persistent(machine.stack.pop())),
}
