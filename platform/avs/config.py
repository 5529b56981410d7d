"""The border between Hydra and the library: typed dataclasses in, one-line errors out.

``parse`` turns a composed configuration into a dataclass tree and checks every key and type by
itself, because OmegaConf's structured configs name neither the known keys nor the offending value.
Past this border there is no DictConfig, no ``cfg.get`` and no mutation.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from avs.errors import ConfigError

__all__ = ["build", "choice_error", "dump", "parse"]

T = TypeVar("T")


def parse(config: DictConfig | Mapping[str, Any], schema: type[T]) -> T:
    """Build ``schema`` (a dataclass) from a composed configuration.

    Raises:
        ConfigError: a key is unknown or missing, or a value has the wrong type; the message names
            the key, the value and what is known there.
    """
    if isinstance(config, DictConfig):
        try:
            missing = sorted(OmegaConf.missing_keys(config))
            plain = OmegaConf.to_container(config, resolve=True)
        except OmegaConfBaseException as error:
            key = error.full_key or "configuration"
            raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from error
        if missing:
            _check_keys_below(schema, plain, "")  # a misspelt key is why another one lacks a value
            raise ConfigError(f"{missing[0]} is not set: give {missing[0]}=VALUE")
    else:
        plain = dict(config)
    built: T = build(schema, plain, path="")
    return built


def build(schema: Any, value: Any, *, path: str) -> Any:
    """Convert plain ``value`` to the annotation ``schema``; ``path`` is the dotted key so far."""
    if schema is Any:
        return value
    origin = typing.get_origin(schema)
    if origin in (typing.Union, types.UnionType):
        return _build_union(typing.get_args(schema), value, path)
    if dataclasses.is_dataclass(schema):
        return _build_dataclass(schema, value, path)
    if origin in (list, tuple, Sequence):
        return _build_sequence(schema, value, path)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _type_error(path, value, "a mapping {key: value}")
        item = typing.get_args(schema)[1]
        return {str(k): build(item, v, path=f"{path}.{k}") for k, v in value.items()}
    if isinstance(schema, type) and issubclass(schema, enum.Enum):
        return _build_enum(schema, value, path)
    return _build_scalar(origin or schema, value, path)


def dump(config: Any) -> Any:
    """The reverse of ``build``: dataclasses and enums to plain values for YAML and JSON."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: dump(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, enum.Enum):
        return config.value
    if isinstance(config, Mapping):
        return {k: dump(v) for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [dump(v) for v in config]
    return config


def choice_error(key: str, value: object, known: Sequence[str]) -> ConfigError:
    """An error for ``key`` whose ``value`` is none of ``known``, with the nearest one suggested."""
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return ConfigError(f"{key}={value} is not known. Known: {', '.join(sorted(known))}.{hint}")


def _check_keys(schema: Any, value: Mapping[str, Any], prefix: str) -> None:
    fields = [f.name for f in dataclasses.fields(schema)]
    for key in value:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f" Did you mean {prefix}{near[0]}?" if near else ""
            known = ", ".join(fields)
            raise ConfigError(
                f"{prefix}{key}={value[key]} is not known. Known keys here: {known}.{hint}"
            )


def _check_keys_below(schema: Any, value: Any, prefix: str) -> None:
    """The same for all sections below."""
    if not (dataclasses.is_dataclass(schema) and isinstance(value, Mapping)):
        return
    _check_keys(schema, value, prefix)
    hints = typing.get_type_hints(schema)
    for key, own in value.items():
        _check_keys_below(hints[key], own, f"{prefix}{key}.")


def _build_dataclass(schema: Any, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise _type_error(path, value, "a group of keys")
    fields = {f.name: f for f in dataclasses.fields(schema)}
    hints = typing.get_type_hints(schema)
    prefix = f"{path}." if path else ""
    _check_keys(schema, value, prefix)
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in value:
            raise ConfigError(f"{prefix}{name} is not set: give {prefix}{name}=VALUE")
    built = {k: build(hints[k], v, path=f"{prefix}{k}") for k, v in value.items()}
    try:
        return schema(**built)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{prefix.rstrip('.') or 'configuration'}: {error}") from None


def _build_union(options: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in options:
        return None
    rest = [o for o in options if o is not type(None)]
    failure: ConfigError | None = None
    for option in rest:
        try:
            return build(option, value, path=path)
        except ConfigError as error:
            failure = error
    assert failure is not None
    if type(None) in options:
        raise ConfigError(f"{failure} (null is allowed too)")
    raise failure


def _build_sequence(schema: Any, value: Any, path: str) -> Any:
    item = typing.get_args(schema)[0]
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _type_error(path, value, f'a list, as "{path}=[a,b]" in quotes')
    built = [build(item, v, path=f"{path}[{i}]") for i, v in enumerate(value)]
    return tuple(built) if typing.get_origin(schema) is tuple else built


def _build_enum(schema: type[enum.Enum], value: Any, path: str) -> enum.Enum:
    if isinstance(value, schema):
        return value
    try:
        return schema(value)
    except ValueError:
        raise choice_error(path, value, [str(m.value) for m in schema]) from None


def _build_scalar(schema: Any, value: Any, path: str) -> Any:
    if schema is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if schema is float and isinstance(value, float) and not math.isfinite(value):
        raise _type_error(path, value, "a finite number")
    is_bool = isinstance(value, bool)
    if isinstance(value, schema) and (schema is bool or not is_bool):
        return value
    if schema is str and isinstance(value, (int, float)) and not is_bool:
        return str(value)  # a folder named 2024 reaches us as a number
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    raise _type_error(path, value, names.get(schema, schema.__name__))


def _type_error(path: str, value: Any, wanted: str) -> ConfigError:
    return ConfigError(f"{path}={value} is a {type(value).__name__}; wanted: {wanted}")
