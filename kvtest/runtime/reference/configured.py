# SPDX-License-Identifier: Apache-2.0
"""Values of an OCI configuration, of the types that the specification gives them: errors name the key.

Nothing, and JSON's ``null``, is what the specification has where nothing is said, as in Go.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from attrs import frozen

from kvtest.errors import RPCError
from kvtest.rpc.status import Code

UINT32 = range(1 << 32)
UINT64 = range(1 << 64)
INT64 = range(-(1 << 63), 1 << 63)
_LONGEST = 60  # characters of a value in a message


@frozen
class Table:
    """A table of a configuration.

    Args:
        values: What is in it.
        path: Its own key, of several words; empty for the whole.
    """

    values: Mapping[str, Any]
    path: str = ""

    @classmethod
    def of(cls, content: object, path: str = "") -> Table:
        """Return a table.

        Args:
            content: What JSON has.
            path: Where it is.

        Raises:
            RPCError: It is none.
        """
        if not isinstance(content, Mapping):
            _refuse(path, content, "no object")
        return cls(content, path)

    def table(self, key: str) -> Table:
        """Return a table in it, without values where there is none."""
        return Table.of(self._found(key, {}), self._path(key))

    def tables(self, key: str) -> list[Table]:
        """Return the tables of a list in it."""
        return [Table.of(item, path) for item, path in self._items(key)]

    def text(self, key: str, default: str | None = "") -> str:
        """Return a text.

        Args:
            key: Its key.
            default: What there is where nothing is said; ``None`` if it has to be.
        """
        return _text(self._required(key, default), self._path(key))

    def texts(self, key: str) -> list[str]:
        """Return the texts of a list."""
        return [_text(item, path) for item, path in self._items(key)]

    def words(self, key: str) -> dict[str, str]:
        """Return the texts of a table."""
        table = self.table(key)
        return {name: table.text(name) for name in table.values}

    def number(self, key: str, allowed: range = INT64, default: int | None = 0) -> int:
        """Return a number.

        Args:
            key: Its key.
            allowed: What it can be.
            default: What there is where nothing is said; ``None`` if it has to be.
        """
        return _number(self._required(key, default), allowed, self._path(key))

    def numbers(self, key: str, allowed: range = INT64) -> list[int]:
        """Return the numbers of a list."""
        return [_number(item, allowed, path) for item, path in self._items(key)]

    def flag(self, key: str) -> bool:
        """Return whether something is so."""
        found = self._found(key, False)
        if not isinstance(found, bool):
            _refuse(self._path(key), found, "neither true nor false")
        return found

    def _found(self, key: str, default: Any) -> Any:
        found = self.values.get(key)
        return default if found is None else found

    def _required(self, key: str, default: Any) -> Any:
        found = self._found(key, default)
        if found is None:
            raise RPCError(Code.INVALID_ARGUMENT, f"the configuration has no {self._path(key)}")
        return found

    def _path(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def _items(self, key: str) -> list[tuple[Any, str]]:
        found = self._found(key, [])
        if not isinstance(found, list | tuple):
            _refuse(self._path(key), found, "no list")
        return [(item, f"{self._path(key)}[{number}]") for number, item in enumerate(found)]


def _text(found: object, path: str) -> str:
    if not isinstance(found, str):
        _refuse(path, found, "no text")
    return found


def _number(found: object, allowed: range, path: str) -> int:
    if not isinstance(found, int) or isinstance(found, bool):
        _refuse(path, found, "no integer")
    if found not in allowed:
        _refuse(path, found, f"not between {allowed[0]} and {allowed[-1]}")
    return found


def _refuse(path: str, found: object, problem: str) -> NoReturn:
    shown = json.dumps(found, default=str)
    shown = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"
    raise RPCError(Code.INVALID_ARGUMENT, f"{path or 'the configuration'} is {shown}, {problem}")
