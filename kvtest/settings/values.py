# SPDX-License-Identifier: Apache-2.0
"""Kinds of values that a setting can have: from text or TOML to a typed value, and back to text.

Flags, variables and ini keys are text; TOML values have types. :meth:`Kind.parse` turns text into what TOML would have
given, and :meth:`Kind.check` accepts only that, so that both ways meet the same rules.

Plain classes and named tuples here and in the rest of this package: making an attrs class takes half a millisecond, and
every pytest run of the environment would pay for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from kvtest.errors import suggestion

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


class InvalidValueError(ValueError):
    """A value does not fit its kind; whoever knows where it came from says so.

    Args:
        reason: What is wrong, to follow the name of the place, such as ``'x' is not a whole number``.
        hint: What the user can write instead.
    """

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


class Context(NamedTuple):
    """What the meaning of a written value depends on.

    Args:
        directory: What relative paths are relative to.
        environ: The environment; ``HOME`` of it is what ``~`` stands for.
    """

    directory: Path
    environ: Mapping[str, str]

    def path(self, text: str) -> Path:
        """Return ``text`` as an absolute path, ``~`` and ``~user`` expanded.

        Raises:
            InvalidValueError: There is no such user, or the text cannot name a file.
        """
        if not text or "\0" in text:
            raise InvalidValueError(f"{text!r} is not a path")
        first, slash, rest = text.partition("/")
        if first == "~" and self.environ.get("HOME"):
            return self.directory / self.environ["HOME"] / rest
        if first.startswith("~"):
            try:
                return Path(first).expanduser() / rest
            except RuntimeError:
                raise InvalidValueError(f"{text!r} names the home of a user who does not exist") from None
        return self.directory / (first + slash + rest)


class Kind(Generic[T]):
    """One kind of value."""

    metavar: str = "VALUE"
    choices: tuple[str, ...] = ()
    repeatable: bool = False

    def parse(self, text: str) -> object:
        """Return ``text`` as TOML would have given it."""
        return text

    def check(self, value: object, context: Context) -> T:
        """Return ``value`` with its final type.

        Raises:
            InvalidValueError: The value does not fit.
        """
        raise NotImplementedError

    def render(self, value: Any) -> str:
        """Return ``value`` as a user would write it on the command line."""
        return str(value)


class Text(Kind[str]):
    """Any text but none.

    Args:
        metavar: What stands for it in help.
    """

    def __init__(self, metavar: str) -> None:
        self.metavar = metavar

    def check(self, value: object, context: Context) -> str:
        """Return a non-empty string."""
        if not isinstance(value, str):
            raise InvalidValueError(f"{value!r} is not a string", 'write it in quotes: "…"')
        if not value.strip():
            raise InvalidValueError("the value is empty")
        return value.strip()


class Program(Text):
    """A program: a name to be looked up on PATH, or, with a slash in it, a path."""

    def __init__(self) -> None:
        super().__init__("PROGRAM")

    def check(self, value: object, context: Context) -> str:
        """Return the name, or the absolute path."""
        text = Text.check(self, value, context)
        return str(context.path(text)) if "/" in text else text


class NameOrDirectory(Text):
    """A name from a table of kvtest, or ``path:DIRECTORY``."""

    def __init__(self) -> None:
        super().__init__("NAME|path:DIRECTORY")

    def check(self, value: object, context: Context) -> str:
        """Return the name, or ``path:`` with an absolute path."""
        text = Text.check(self, value, context)
        prefix = "path:"
        return prefix + str(context.path(text.removeprefix(prefix))) if text.startswith(prefix) else text


class NamesOrDirectories(Kind[tuple[str, ...]]):
    """One or more names from a table of kvtest, or ``path:DIRECTORY``; a list in TOML, commas or a repeated flag else.

    Args:
        noun: What one of them is called in messages.
    """

    repeatable = True

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self.one = NameOrDirectory()
        self.metavar = f"{self.one.metavar}[,…]"

    def parse(self, text: str) -> object:
        """Return the items between the commas."""
        return _items(text)

    def check(self, value: object, context: Context) -> tuple[str, ...]:
        """Return the names in the order in which they were written, each once."""
        items = self.parse(value) if isinstance(value, str) else value
        items = items if isinstance(items, list) else [items]
        if not items:
            raise InvalidValueError(f"no {self.noun} is named")
        return tuple(dict.fromkeys(self.one.check(item, context) for item in items))

    def render(self, value: tuple[str, ...]) -> str:
        """Return the names with commas between them."""
        return ",".join(value)


class NameOrFile(Text):
    """A name, or, with a slash in it, the path of a file."""

    def __init__(self) -> None:
        super().__init__("NAME|PATH")

    def check(self, value: object, context: Context) -> str:
        """Return the name, or the absolute path."""
        text = Text.check(self, value, context)
        return str(context.path(text)) if "/" in text else text


class File(Kind[Path]):
    """A path of a file or directory."""

    metavar = "PATH"

    def check(self, value: object, context: Context) -> Path:
        """Return an absolute path."""
        if not isinstance(value, str):
            raise InvalidValueError(f"{value!r} is not a path", 'write it in quotes: "…"')
        return context.path(value)


class WholeNumber(Kind[int]):
    """A whole number.

    Args:
        minimum: The least one that makes sense.
        unit: The unit as it reads after a number; empty where there is none.
        maximum: The greatest one that makes sense.
    """

    def __init__(self, minimum: int, unit: str = "", maximum: int | None = None) -> None:
        self.minimum = minimum
        self.maximum = maximum
        self.unit = unit
        self.metavar = unit.upper() or "NUMBER"

    def parse(self, text: str) -> object:
        """Return the number, or the text where it is none."""
        try:
            return int(text)
        except ValueError:
            return text

    def check(self, value: object, context: Context) -> int:
        """Return a whole number within the bounds."""
        if not isinstance(value, int) or isinstance(value, bool):
            unit = f", in {self.unit}" if self.unit else ""
            raise InvalidValueError(
                f"{value!r} is not a whole number", f"a whole number of {self.minimum} or more{unit}"
            )
        if value < self.minimum:
            raise InvalidValueError(f"{value} is too small", f"at least {self.minimum} {self.unit}".rstrip())
        if self.maximum is not None and value > self.maximum:
            raise InvalidValueError(f"{value} is too large", f"at most {self.maximum} {self.unit}".rstrip())
        return value


_LONGEST_SECONDS = 1e6  # more than a week; what waits takes no more than some 2 million


class Seconds(Kind[float]):
    """A length of time in seconds."""

    metavar = "SECONDS"

    def parse(self, text: str) -> object:
        """Return the number, or the text where it is none."""
        try:
            return float(text)
        except ValueError:
            return text

    def check(self, value: object, context: Context) -> float:
        """Return a positive, finite number of seconds."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InvalidValueError(f"{value!r} is not a number of seconds", "a number, such as 30 or 2.5")
        if not 0 < value <= _LONGEST_SECONDS:
            raise InvalidValueError(
                f"{value!r} is not a usable number of seconds", f"a number from 0 to {_LONGEST_SECONDS:.0f}"
            )
        return float(value)

    def render(self, value: float) -> str:
        """Return the number without a needless fraction."""
        return f"{value:g}"


class Patterns(Kind[tuple[str, ...]]):
    """Any number of texts: a list in TOML, commas or a repeated flag elsewhere."""

    metavar = "PATTERN[,PATTERN…]"
    repeatable = True

    def parse(self, text: str) -> object:
        """Return the items between the commas."""
        return _items(text)

    def check(self, value: object, context: Context) -> tuple[str, ...]:
        """Return the texts, each once."""
        items = self.parse(value) if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) and item.strip() for item in items):
            raise InvalidValueError(f"{value!r} is not a list of texts")
        return tuple(dict.fromkeys(item.strip() for item in items))

    def render(self, value: tuple[str, ...]) -> str:
        """Return the texts with commas between them."""
        return ",".join(value)


class Files(Kind[tuple[Path, ...]]):
    """Any number of paths: a list in TOML, commas or a repeated flag elsewhere."""

    metavar = "PATH[,PATH…]"
    repeatable = True

    def parse(self, text: str) -> object:
        """Return the items between the commas."""
        return _items(text)

    def check(self, value: object, context: Context) -> tuple[Path, ...]:
        """Return absolute paths, each once."""
        return tuple(map(context.path, Patterns().check(value, context)))

    def render(self, value: tuple[Path, ...]) -> str:
        """Return the paths with commas between them."""
        return ",".join(map(str, value))


class Choice(Kind[E]):
    """One of an enumeration's values.

    Args:
        enumeration: The enumeration.
        noun: What one of them is called in messages.
    """

    def __init__(self, enumeration: type[E], noun: str) -> None:
        self.enumeration = enumeration
        self.noun = noun
        self.choices = tuple(member.value for member in enumeration)
        self.metavar = "|".join(self.choices)

    def check(self, value: object, context: Context) -> E:
        """Return the member of that value."""
        if isinstance(value, str) and value in self.choices:
            return self.enumeration(value)
        nearest = suggestion(str(value), self.choices)
        listed = f"known: {', '.join(self.choices)}"
        raise InvalidValueError(
            f"there is no {self.noun} {value!r}", nearest if nearest == listed else f"{nearest} {listed}"
        )


class Choices(Kind[tuple[E, ...]]):
    """One or more of an enumeration's values: a list in TOML, commas or a repeated flag elsewhere.

    Args:
        enumeration: The enumeration.
        noun: What one of them is called in messages.
    """

    repeatable = True

    def __init__(self, enumeration: type[E], noun: str) -> None:
        self.one = Choice(enumeration, noun)
        self.choices = self.one.choices
        self.metavar = f"{noun.upper()}[,{noun.upper()}…]"

    def parse(self, text: str) -> object:
        """Return the items between the commas."""
        return _items(text)

    def check(self, value: object, context: Context) -> tuple[E, ...]:
        """Return the members in the order in which they were written, each once."""
        items = self.parse(value) if isinstance(value, str) else value
        if not isinstance(items, list):
            raise InvalidValueError(f"{value!r} is not a list", f"a list of: {', '.join(self.choices)}")
        if not items:
            raise InvalidValueError(f"no {self.one.noun} is named", f"at least one of: {', '.join(self.choices)}")
        return tuple(dict.fromkeys(self.one.check(item, context) for item in items))

    def render(self, value: tuple[E, ...]) -> str:
        """Return the values with commas between them."""
        return ",".join(value)


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
