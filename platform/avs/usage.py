"""What the keys of a configuration mean, for ``--help``: from its dataclasses, so it stays true."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import re
import textwrap
import types
import typing
from typing import Any

from avs.models import MODELS, ModelConfig

__all__ = ["usage"]

_WIDTH = 100


def usage(schema: type[Any]) -> str:
    """The docstring of each section of ``schema`` with its keys, their types and choices."""
    sections = _sections(schema, prefix="")
    if typing.get_type_hints(schema).get("model") is ModelConfig:
        sections += [_model_options(name) for name in MODELS]
    return "\n\n".join(sections)


def _model_options(name: str) -> str:
    """The options of one model, with what they are where a YAML does not say."""
    options = MODELS[name].options
    title = f"model.options of {name}: "
    lines = textwrap.wrap(title + _plain(inspect.getdoc(options) or ""), _WIDTH)
    hints = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        own = "" if field.default is dataclasses.MISSING else f" = {_told(field.default)}"
        lines.append(f"  model.options.{field.name}: {_kind(hints[field.name])}{own}")
    return "\n".join(lines)


def _told(value: Any) -> str:
    """As YAML has it."""
    return json.dumps(value.value if isinstance(value, enum.Enum) else value)


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
    named = re.sub(r":\w+:`~?([^`]*)`", r"\1", docstring)
    return " ".join(named.replace("``", "").split())


def _without_none(hint: Any) -> Any:
    parts = [p for p in typing.get_args(hint) if p is not type(None)]
    is_optional = typing.get_origin(hint) in (types.UnionType, typing.Union) and len(parts) == 1
    return parts[0] if is_optional else hint


def _kind(hint: Any) -> str:
    plain = _without_none(hint)
    if isinstance(plain, type) and issubclass(plain, enum.Enum):
        name = "|".join(str(member.value) for member in plain)
    else:
        inner = typing.get_args(plain)
        if typing.get_origin(plain) is list:
            name = f"list of {_kind(inner[0])}"
        elif isinstance(plain, type) and not inner:
            name = plain.__name__
        else:
            name = str(plain).replace("typing.", "")
    return f"{name} or null" if plain is not hint else name
