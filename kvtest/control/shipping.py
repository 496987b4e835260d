# SPDX-License-Identifier: Apache-2.0
"""A Python function as source, with whatever it needs from its module."""

from __future__ import annotations

import inspect
import sys
import textwrap
import types
from collections.abc import Callable
from typing import Any

from kvtest.errors import GuestError
from kvtest.guest.messages import pack

_HOW = "a guest gets functions as source: pass values as arguments, and import inside the function"


def ship(function: Callable[..., Any]) -> dict[str, Any]:
    """Return what a guest needs to run a function.

    The names that it uses from its module go with it: standard library modules and what is imported from them, values
    that JSON can hold (and bytes), and other functions, with what those need.

    Args:
        function: A plain or generator function without closure and decorators.

    Returns:
        ``name``, ``sources``, ``imports`` and ``values``.

    Raises:
        GuestError: It needs something that cannot be sent; the message names it.
    """
    parcel = _Parcel()
    parcel.add(function)
    return {
        "name": function.__name__,
        "sources": list(parcel.sources.values()),
        "imports": parcel.imports,
        "values": parcel.values,
    }


class _Parcel:
    def __init__(self) -> None:
        self.sources: dict[str, dict[str, Any]] = {}
        self.imports: list[str] = []
        self.values: dict[str, Any] = {}

    def add(self, function: Callable[..., Any]) -> None:
        if not isinstance(function, types.FunctionType):
            raise GuestError(f"{function!r} is not a plain function", hint=_HOW)
        name = function.__name__
        if name in self.sources:
            return
        if name == "<lambda>":
            raise GuestError("a lambda has no source of its own", hint="write it as a function")
        if function.__closure__:
            captured = ", ".join(function.__code__.co_freevars)
            raise GuestError(f"{name} captures {captured} from the function around it", hint=_HOW)
        try:
            lines, first = inspect.getsourcelines(function)
        except OSError as error:
            raise GuestError(f"{name} has no source: {error}") from error
        text = textwrap.dedent("".join(lines))
        if text.startswith("@"):
            raise GuestError(f"{name} has a decorator, which a guest does not have", hint="pass a plain function")
        self.sources[name] = {
            "text": text,
            "filename": inspect.getsourcefile(function) or "<host>",
            "line": first,
        }
        for needed in _globals_used(function.__code__):
            if needed in function.__globals__:
                self._need(name, needed, function.__globals__[needed])

    def _need(self, user: str, name: str, value: Any) -> None:
        if isinstance(value, types.ModuleType):
            if value.__name__.partition(".")[0] not in sys.stdlib_module_names:
                raise GuestError(f"{user} uses the module {value.__name__}, which guests do not have", hint=_HOW)
            self.imports.append(f"import {value.__name__} as {name}" if name != value.__name__ else f"import {name}")
            return
        home = getattr(value, "__module__", None)
        if isinstance(home, str) and home.partition(".")[0] in sys.stdlib_module_names and hasattr(value, "__name__"):
            self.imports.append(f"from {home} import {value.__name__} as {name}")
        elif isinstance(value, types.FunctionType):
            if value.__name__ != name:
                raise GuestError(f"{user} uses {value.__name__} under another name, {name}", hint=_HOW)
            self.add(value)
        else:
            try:
                pack({"value": value})
            except TypeError as error:
                raise GuestError(f"{user} uses {name}, a {type(value).__name__} of the host", hint=_HOW) from error
            self.values[name] = value


def _globals_used(code: types.CodeType) -> set[str]:
    """Return the names that a function and the functions inside it may look up in their module."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _globals_used(constant)
    return names
