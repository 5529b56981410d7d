"""One-line explanations of what Hydra refuses on the command line.

Hydra's own messages name a grammar rule or advise ``+key=value``, which would only move the error
to ``parse``. These name the key, the value, what is known there, and the quoting that works.
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

__all__ = ["compose_as", "explain_hydra_error", "quote_override"]

T = TypeVar("T")


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
    standing = re.search(r"Could not append to config. An item is already at '([^']+)'", text)
    if standing:
        return f"+{standing.group(1)} is there already: give it without the +."
    for argument in arguments:
        if not argument.startswith("-") and not _parses_alone(argument):
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
        return parse(compose(name, overrides=list(overrides)), schema)
    except HydraException as error:
        told = explain_hydra_error(error, schema, overrides)
    except ConfigError as error:
        told = str(error)
    raise ConfigError(f"{key}: {told}")


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
    node: Any = schema
    done: list[str] = []
    for part in key.split("."):
        if not dataclasses.is_dataclass(node):
            break
        known = [f.name for f in dataclasses.fields(node)]
        if part not in known:
            deeper = _keys_named(part, schema) if not done else []
            return _unknown_part(key, value, ".".join(done), part, known, deeper)
        done.append(part)
        node = _without_none(typing.get_type_hints(node)[part])
    if dataclasses.is_dataclass(node):
        return (
            f"{key}={value}: {key} is a section of this job, not a choice of files: give its keys, "
            f"{', '.join(f'{key}.{field.name}' for field in dataclasses.fields(node))}."
        )
    if ".".join(done) == key or typing.get_origin(node) is dict:
        return (
            f"{key}={value} adds to the chosen YAML files, which lack this key: unless it is "
            f"misspelt, give +{key}={value}"
        )
    return f"{key}={value} cannot be set: {'.'.join(done)} takes no such key."


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


def _unknown_part(
    key: str, value: str, parent: str, part: str, known: list[str], deeper: list[str]
) -> str:
    near = deeper or difflib.get_close_matches(part, known, n=1)
    prefix = f"{parent}." if parent else ""
    hint = f" Did you mean {prefix}{near[0]}?" if near else ""
    where = f"under {parent}" if parent else "here"
    return f"{key}={value} is not known. Known keys {where}: {', '.join(known)}.{hint}"


def _without_none(hint: Any) -> Any:
    options = [o for o in typing.get_args(hint) if o is not type(None)]
    return options[0] if typing.get_origin(hint) is not None and len(options) == 1 else hint
