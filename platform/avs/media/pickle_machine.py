"""The operations of a pickle, carried out without looking up or calling anything.

A pickle is a program for a small stack machine, and may call any function it names. This machine
knows only what builds plain values; a function that the file names is kept as its name, if it is on
the caller's list, and a call as its name and arguments. What they mean is for the caller to say.
Trade-off: only the operations that pickled log-mels consist of are known, all others are refused.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from avs.errors import MediaError

__all__ = ["Call", "Name", "NamePath", "Persistent", "load_plain"]

NamePath = tuple[str, str]  # module and name of a function or class


@dataclass(frozen=True, slots=True)
class Name:
    """A function or class that the file names."""

    path: NamePath


@dataclass(frozen=True, slots=True)
class Call:
    """A call that the file asks for."""

    path: NamePath
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Persistent:
    """A reference to something outside the pickle."""

    key: Any


def load_plain(stream: io.BytesIO, *, allowed: Collection[NamePath]) -> Any:
    """The value of the pickle at the position of ``stream``, which is left behind its end.

    allowed: the functions and classes that may be named.

    Raises:
        MediaError: another name, an unknown operation, or the end of the stream.
        ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError: the file is
            damaged; which of them, depends on how.
    """
    machine = _Machine(allowed)
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


@dataclass(slots=True)
class _Machine:
    """The stack of a pickle: values, marks (positions on the stack) and the memo."""

    allowed: Collection[NamePath]
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
        if path not in self.allowed:
            raise MediaError(f"asks for {'.'.join(path)}, which no log-mel needs: not opened")
        self.stack.append(Name(path))

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise TypeError("a call of something that is no function")
        self.stack.append(Call(function.path, arguments))


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
    "BINPERSID": lambda machine, _: machine.stack.append(Persistent(machine.stack.pop())),
}
