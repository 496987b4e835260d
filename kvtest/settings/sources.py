# SPDX-License-Identifier: Apache-2.0
"""Where settings come from, in which order, and what is said when one of them is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from kvtest.errors import SettingError, suggestion
from kvtest.settings.table import NONE, SETTINGS, Setting, Settings
from kvtest.settings.values import Context, InvalidValueError

_VARIABLE_PREFIX = "KVTEST_"
_FILE_NAME = "kvtest.toml"
_PROJECT_FILE_NAME = "pyproject.toml"


class Source(StrEnum):
    """Kinds of places, highest precedence first."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    INI = "pytest ini"
    FILE = _FILE_NAME
    PROJECT = _PROJECT_FILE_NAME
    DEFAULT = "default"


class Origin(NamedTuple):
    """Where the value of one setting came from.

    Args:
        source: The kind of place.
        name: What the setting is called there, such as ``KVTEST_MEMORY``.
        file: The file, where it is one.
    """

    source: Source
    name: str
    file: Path | None = None

    def __str__(self) -> str:
        return self.name if self.file is None else f"{self.name} in {self.file}"


class LoadedSettings(NamedTuple):
    """Settings, and where each of them came from.

    Args:
        settings: The values.
        origins: The origin of each, by name.
    """

    settings: Settings
    origins: Mapping[str, Origin]

    def changed(self) -> Iterator[tuple[Setting, str, Origin]]:
        """Yield each setting that is not left at its default, its value as text, and its origin."""
        for name, origin in self.origins.items():
            if origin.source is not Source.DEFAULT:
                setting = SETTINGS[name]
                yield setting, setting.render(getattr(self.settings, name)), origin

    def report_lines(self) -> list[str]:
        """Return one line per setting that is not left at its default, for the header of a report."""
        return [f"{setting.name} = {text}  ({origin})" for setting, text, origin in self.changed()]


class _Given(NamedTuple):
    """One value as it was written."""

    value: object
    is_text: bool
    origin: Origin
    context: Context

    def typed(self, setting: Setting) -> Any:
        try:
            if self.is_text:
                assert isinstance(self.value, str)
                if setting.optional and self.value.strip() == NONE:
                    return None
                if setting.optional and not self.value.strip():  # as of a variable of a script that is not set
                    raise InvalidValueError("the value is empty", f"leave it out, or write {NONE} for no value")
                return setting.kind.check(setting.kind.parse(self.value), self.context)
            return setting.kind.check(self.value, self.context)
        except InvalidValueError as error:
            raise SettingError(f"{self.origin}: {error.reason}", hint=error.hint) from None


def load(
    flags: Mapping[str, str | Sequence[str] | None],
    environ: Mapping[str, str],
    ini: Mapping[str, str | None],
    directory: Path,
    *,
    ini_file: Path | None = None,
    flag_prefix: str = "--kvtest-",
) -> LoadedSettings:
    """Return the settings that hold for a run.

    Args:
        flags: Text of the command line by setting name; ``None`` and an empty list mean not given. A list is what a
            repeated flag gives.
        environ: The environment. An empty variable counts as not set; ``KVTEST_`` ones that name no setting are wrong.
        ini: Text of pytest's ini file by setting name; ``None`` means not given.
        directory: Where the search for configuration files starts, upward to the first directory with a ``.git``; paths
            in flags, variables and defaults are relative to it.
        ini_file: The file that ``ini`` was read from; its relative paths are relative to its directory.
        flag_prefix: What flags start with, for messages: pytest's differ from those of ``kvtest run``.

    Raises:
        SettingError: A value, key or variable is wrong, or a configuration file cannot be read.
    """
    here = directory.absolute()
    context = Context(here, environ)
    layers = [
        _from_flags(flags, context, flag_prefix),
        _from_environment(context),
        _from_ini(ini, ini_file, context),
        *_from_files(here, environ),
    ]
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for name, setting in SETTINGS.items():
        # Every value that was written is checked, also one that another overrides: it is wrong all the same.
        given = [(layer[name].typed(setting), layer[name].origin) for layer in layers if name in layer]
        values[name], origins[name] = (
            given[0] if given else (setting.default_value(context), Origin(Source.DEFAULT, "default"))
        )
    return LoadedSettings(Settings(**values), origins)


def _known(name: str, message: str) -> None:
    if name not in SETTINGS:
        raise SettingError(message, hint=suggestion(name, SETTINGS))


def _from_flags(flags: Mapping[str, str | Sequence[str] | None], context: Context, prefix: str) -> Mapping[str, _Given]:
    given = {}
    for name, value in flags.items():
        flag = prefix + name.replace("_", "-")
        _known(name, f"unknown flag {flag}")
        if value is not None and (isinstance(value, str) or len(value) > 0):
            text = value if isinstance(value, str) else ",".join(value)
            given[name] = _Given(text, True, Origin(Source.FLAG, flag), context)
    return given


def _from_environment(context: Context) -> Mapping[str, _Given]:
    known = {setting.variable: name for name, setting in SETTINGS.items()}
    given = {}
    for variable, text in context.environ.items():
        # kvtest's own processes talk in variables that start with an underscore, so none has to be excepted here.
        if not variable.startswith(_VARIABLE_PREFIX):
            continue
        if variable not in known:
            raise SettingError(f"unknown environment variable {variable}", hint=suggestion(variable, known))
        if text:
            given[known[variable]] = _Given(text, True, Origin(Source.ENVIRONMENT, variable), context)
    return given


def _from_ini(ini: Mapping[str, str | None], file: Path | None, context: Context) -> Mapping[str, _Given]:
    if file is not None:
        context = context._replace(directory=file.absolute().parent)
    given = {}
    for name, text in ini.items():
        _known(name, f"unknown key kvtest_{name} in pytest's ini file")
        if text is not None:
            given[name] = _Given(text, True, Origin(Source.INI, SETTINGS[name].ini_key, file), context)
    return given


def _from_files(directory: Path, environ: Mapping[str, str]) -> list[Mapping[str, _Given]]:
    """Return what the nearest ``kvtest.toml`` and the nearest ``pyproject.toml`` with ``[tool.kvtest]`` say."""
    file: Mapping[str, _Given] | None = None
    project: Mapping[str, _Given] | None = None
    for parent in (directory, *directory.parents):
        if file is None and (table := _file_table(parent / _FILE_NAME)) is not None:
            file = _from_table(table, Source.FILE, parent / _FILE_NAME, environ)
        if project is None and (table := _project_table(parent / _PROJECT_FILE_NAME)) is not None:
            project = _from_table(table, Source.PROJECT, parent / _PROJECT_FILE_NAME, environ)
        if (parent / ".git").exists():
            break
    return [file or {}, project or {}]


def _from_table(table: object, source: Source, file: Path, environ: Mapping[str, str]) -> Mapping[str, _Given]:
    if not isinstance(table, Mapping):
        raise SettingError(f"tool.kvtest in {file} is not a table", hint="start it with the line [tool.kvtest]")
    prefix = "tool.kvtest." if source is Source.PROJECT else ""
    context = Context(file.parent, environ)
    for name in table:
        _known(name, f"unknown key {prefix}{name} in {file}")
    return {name: _Given(value, False, Origin(source, prefix + name, file), context) for name, value in table.items()}


def _file_table(file: Path) -> object | None:
    content = _read(file)
    return None if content is None else _parse(content, file)


def _project_table(file: Path) -> object | None:
    content = _read(file)
    # Most projects do not mention kvtest; they shall not pay for parsing their file a second time.
    if content is None or "kvtest" not in content:
        return None
    tool = _parse(content, file).get("tool")
    return tool.get("kvtest") if isinstance(tool, Mapping) else None


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SettingError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingError(f"{file} is not UTF-8: byte {error.start}", hint="TOML files are UTF-8") from error


def _parse(content: str, file: Path) -> Mapping[str, Any]:
    import tomllib

    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"{file} is not valid TOML: {error}") from error
