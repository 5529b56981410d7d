"""Overrides of the command line: what Hydra is given, and what it refuses in one line.

Hydra wants ``+key=value`` for keys that the chosen YAML files lack and forbids it for others; which
these are is nothing that a user knows, and the dataclasses say what exists. So values are always
given to it as ``++key=value``. Its own messages name a grammar rule; these name the key, the value,
what is known there, and the quoting that works.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import shlex
import sys
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException

from avs.config import parse
from avs.errors import ConfigError

__all__ = ["compose_as", "explain_hydra_error", "quote_override", "values_forced"]

T = TypeVar("T")

_KEY = re.compile(r"\+{0,2}([A-Za-z_][\w.]*)=")
_FLAGS_WITH_VALUE = ("-cd", "--config-dir", "-cp", "--config-path", "-cn", "--config-name")


def values_forced(overrides: Sequence[str], schema: type[Any]) -> list[str]:
    """The same with ``++`` before each key of ``schema`` that takes a value; choices of files, and
    what is no key of it, as they were."""
    return [_forced(override, schema) for override in overrides]


def quote_override(override: str) -> str:
    """Quote ``key=value`` for Hydra and for the shell: ``'input="/a=b"'``.

    A value in brackets is taken for a list and each element is quoted; quotes that are already
    around a value are not doubled.
    """
    key, _, value = override.partition("=")
    if value.startswith("[") and value.endswith("]"):
        quoted = "[" + ",".join(_quote(v.strip()) for v in value[1:-1].split(",")) + "]"
    else:
        quoted = _quote(value)
    return shlex.quote(f"{key}={quoted}")


def explain_hydra_error(
    error: HydraException | ValueError, schema: type[Any], arguments: Sequence[str] | None = None
) -> str:
    """Say in one line what is wrong with the override that made Hydra raise ``error``.

    Raises:
        ValueError: ``error`` itself, when it is one and not about an override.
    """
    text = str(error)
    if isinstance(error, MissingConfigException):
        return _explain_missing_group(text)
    if isinstance(error, ValueError) and not text.startswith("Config group override"):
        raise error
    arguments = sys.argv[1:] if arguments is None else arguments
    refused = re.match(r"Could not override '([^']+)'", text)
    if refused:
        return _explain_unknown_key(refused.group(1), schema, arguments)
    for argument in _without_flags(arguments):
        if not _parses_alone(argument):
            if "=" not in argument:
                return f"{argument!r} is not an override: give KEY=VALUE."
            return f"{argument!r} does not parse; quote the value: {quote_override(argument)}"
    for argument in arguments:
        key, _, value = argument.partition("=")
        if isinstance(error, ValueError) and dataclasses.is_dataclass(_type_of(key, schema)):
            return f"{key}={value} is not known: give the name of a file below configs/{key}."
    return " ".join(text.split("\n")[0].split())


def compose_as(schema: type[T], name: str, overrides: Sequence[str], *, key: str) -> T:
    """Another root configuration, from inside a Hydra main, as ``schema``.

    Raises:
        ConfigError: it cannot be composed or parsed; begins with ``key``, where the overrides were.
    """
    try:
        return parse(compose(name, overrides=values_forced(overrides, schema)), schema)
    except HydraException as error:
        told = explain_hydra_error(error, schema, overrides)
    except ConfigError as error:
        told = str(error)
    raise ConfigError(f"{key}: {told}")


def _forced(override: str, schema: type[Any]) -> str:
    found = _KEY.match(override)
    if found is None:
        return override
    key = found[1]
    section = _without_none(_type_of(key.partition(".")[0], schema))
    is_choice = "." not in key and dataclasses.is_dataclass(section)
    return override if section is None or is_choice else f"++{override.lstrip('+')}"


def _without_flags(arguments: Sequence[str]) -> list[str]:
    """Those that are overrides."""
    before = ["", *arguments]
    return [
        argument
        for flag, argument in zip(before, arguments, strict=False)
        if not argument.startswith("-") and flag not in _FLAGS_WITH_VALUE
    ]


def _quote(value: str) -> str:
    bare = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
    # In Hydra's grammar a backslash is itself, save before a quote: only those are doubled.
    escaped = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ("\\" + m[2] if m[2] else ""), bare)
    return '"' + escaped.replace("${", "\\${") + '"'


def _parses_alone(argument: str) -> bool:
    try:
        override = OverridesParser.create().parse_overrides([argument])[0]
    except OverrideParseException:
        return False
    return not override.is_sweep_override()


def _explain_missing_group(text: str) -> str:
    wanted = re.search(r"Could not find '([^']+)'", text)
    options = re.findall(r"^\t([^\t\n=]+)$", text, flags=re.MULTILINE)
    if not wanted:
        return text.splitlines()[0]
    group, _, name = wanted.group(1).rpartition("/")
    key = f"{group}={name}" if group else f"--config-name {name}"
    near = difflib.get_close_matches(name, options, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{key} is not known. Known: {', '.join(options)}.{hint}"


def _explain_unknown_key(key: str, schema: type[Any], arguments: Sequence[str]) -> str:
    pairs = [argument.lstrip("+").partition("=") for argument in arguments]
    value = next((given for name, _, given in pairs if name == key), "")
    section = _without_none(_type_of(key, schema))
    if dataclasses.is_dataclass(section):
        return (
            f"{key}={value}: {key} is a section of this job, not a choice of files: give its keys, "
            f"{', '.join(f'{key}.{field.name}' for field in dataclasses.fields(section))}."
        )
    part = key.partition(".")[0]
    known = [field.name for field in dataclasses.fields(schema)]
    near = _keys_named(part, schema) or difflib.get_close_matches(part, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{key}={value} is not known. Known keys here: {', '.join(known)}.{hint}"


def _type_of(key: str, schema: type[Any]) -> Any:
    return typing.get_type_hints(schema).get(key)


def _keys_named(name: str, schema: type[Any], prefix: str = "") -> list[str]:
    """Dotted keys of the sections below ``schema`` that end with ``name``."""
    found = []
    for key, hint in typing.get_type_hints(schema).items():
        kind = _without_none(hint)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            found += _keys_named(name, kind, f"{prefix}{key}.")
        elif key == name and prefix:
            found.append(prefix + key)
    return found


def _without_none(hint: Any) -> Any:
    options = [o for o in typing.get_args(hint) if o is not type(None)]
    return options[0] if typing.get_origin(hint) is not None and len(options) == 1 else hint
