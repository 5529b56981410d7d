"""What the keys of a configuration mean, for ``--help``: from its dataclasses, so it stays true."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import textwrap
import types
import typing
from typing import Any

__all__ = ["usage"]

_WIDTH = 100


def usage(schema: type[Any]) -> str:
    """The docstring of each section of ``schema`` with its keys, their types and choices."""
    return "\n\n".join(_sections(schema, prefix=""))


def _sections(schema: type[Any], *, prefix: str) -> list[str]:
    title = f"{prefix.rstrip('.')}: " if prefix else ""
    lines = textwrap.wrap(title + _plain(inspect.getdoc(schema) or ""), _WIDTH)
    nested = []
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        kind = _without_none(hints[field.name])
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            nested += _sections(kind, prefix=f"{prefix}{field.name}.")
        else:
            lines.append(f"  {prefix}{field.name}: {_kind(hints[field.name])}")
    return ["\n".join(lines), *nested]


def _plain(docstring: str) -> str:
    """A docstring as one paragraph without markup."""
    return " ".join(docstring.replace("``", "").split())


def _without_none(hint: Any) -> Any:
    parts = [p for p in typing.get_args(hint) if p is not type(None)]
    is_optional = typing.get_origin(hint) in (types.UnionType, typing.Union) and len(parts) == 1
    return parts[0] if is_optional else hint


def _kind(hint: Any) -> str:
    plain = _without_none(hint)
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        name = "|".join(str(member.value) for member in plain)
    else:
        name = plain.__name__ if isinstance(plain, type) else str(plain).replace("typing.", "")
        if typing.get_args(plain):
            name = str(plain).replace("typing.", "")
    return f"{name} or null" if plain is not hint else name
