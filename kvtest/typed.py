# SPDX-License-Identifier: Apache-2.0
"""From a parsed TOML table to an attrs class, with errors a person can act on.

Supported field types are what the project's files need: ``str``, ``int``, ``float``, ``bool``, ``Path``, enums,
``T | None``, ``tuple[T, ...]``, ``dict[str, T]`` and nested attrs classes.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import attrs

from kvtest.errors import UsageError, suggestion

T = TypeVar("T")
Fail = Callable[[str, str | None], UsageError]


def structure(kind: type[T], table: Mapping[str, Any], *, where: str, error: type[UsageError] = UsageError) -> T:
    """Return ``table`` as an instance of the attrs class ``kind``.

    Args:
        kind: An attrs class.
        table: What the TOML parser returned.
        where: What to name in messages, such as ``images/guest.toml``.
        error: The class of what is raised.

    Raises:
        UsageError: A key is unknown (with the nearest valid one) or missing, or a value has the wrong type.
    """

    def fail(message: str, hint: str | None = None) -> UsageError:
        return error(f"{where}: {message}", hint=hint)

    converted = _convert(kind, table, "", fail)
    assert isinstance(converted, kind)
    return converted


def _convert(kind: Any, value: Any, key: str, fail: Fail) -> Any:
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (inner,) = [argument for argument in arguments if argument is not type(None)]
        return None if value is None else _convert(inner, value, key, fail)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise fail(f"{key!r} must be a list, not {_named(value)}", None)
        return tuple(_convert(arguments[0], item, f"{key}[{i}]", fail) for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise fail(f"{key!r} must be a table, not {_named(value)}", None)
        return {name: _convert(arguments[1], item, f"{key}.{name}".lstrip("."), fail) for name, item in value.items()}
    if attrs.has(kind):
        return _instance(kind, value, key, fail)
    if issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            raise fail(f"{key!r} has no choice {value!r}", suggestion(str(value), [m.value for m in kind])) from None
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise fail(f"{key!r} must be {_noun(kind)}, not {_named(value)}", None)
    return value


def _instance(kind: type[Any], value: Any, key: str, fail: Fail) -> Any:
    if not isinstance(value, Mapping):
        raise fail(f"{key!r} must be a table, not {_named(value)}", None)
    prefix = f"{key}." if key else ""
    fields = {field.name: field for field in attrs.fields(kind)}
    hints = typing.get_type_hints(kind)
    for name in value:
        if name not in fields:
            raise fail(f"unknown key {prefix + name!r}", suggestion(name, fields))
    for name, field in fields.items():
        if field.default is attrs.NOTHING and name not in value:
            raise fail(f"the key {prefix + name!r} is missing", None)
    return kind(**{name: _convert(hints[name], item, prefix + name, fail) for name, item in value.items()})


def _noun(kind: type[Any]) -> str:
    return {str: "a string", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}[kind]


def _named(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a table"
    return repr(value)
