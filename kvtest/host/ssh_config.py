# SPDX-License-Identifier: Apache-2.0
"""How ``ssh`` would reach a machine: what it says itself, or where it is not installed, what ``~/.ssh/config`` says.

``ssh -G`` prints what it has made of its configuration, and connects to nobody.
"""

from __future__ import annotations

import getpass
import os
import platform
import pwd
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from kvtest.errors import UsageError

Options = Mapping[str, list[str]]
"""Values by option, in small letters."""
_SECONDS = 20.0  # a name may be looked up, and commands of `Match exec` run
_INCLUDE = re.compile(r"^\s*include[\s=]", re.IGNORECASE | re.MULTILINE)
_TOKEN = re.compile(r"%(.)|\$\{(\w+)\}")
# What has a default that is more than one value, of which it is to be known whether it was chosen.
_WITH_DEFAULTS = ("identityfile", "userknownhostsfile", "globalknownhostsfile")


def lookup(alias: str, user: str | None, port: int | None) -> Options:
    """Return what is configured for a machine; of keys and files of known hosts only what is not ssh's default.

    Args:
        alias: The machine, as the user wrote it.
        user: The user there, if the user wrote that.
        port: Its port, likewise.

    Raises:
        UsageError: What is configured cannot be read, or not without ``ssh``.
    """
    program = shutil.which("ssh")
    # It does not work for somebody who is not in the password database, for instance.
    usual = _asked([program, "-F", "none"], alias) if program is not None else None
    if program is None or isinstance(usual, str) or usual is None:
        return _read(alias)
    given = [*(["-l", user] if user else []), *(["-p", str(port)] if port else [])]
    home, theirs = Path("~").expanduser(), Path(pwd.getpwuid(os.getuid()).pw_dir)
    said = _asked([program, *(_file_below(home) if home != theirs else []), *given], alias)
    if isinstance(said, str):
        raise UsageError(f"ssh cannot use its configuration for {alias}: {said}", hint="see ssh_config(5)")
    found = {name: values for name, values in said.items() if name not in _WITH_DEFAULTS or values != usual.get(name)}
    found["identityfile"] = [_expanded(name, alias, found) for name in found.get("identityfile", [])]
    if "userknownhostsfile" in found:  # where each ~ has become that of the password database
        found["userknownhostsfile"] = [
            names.replace(f"{theirs}/.ssh/", f"{home}/.ssh/") for names in found["userknownhostsfile"]
        ]
    return found


def _asked(command: list[str], alias: str) -> Options | str:
    """Return what ssh would do, or why it would do nothing."""
    try:
        completed = subprocess.run(
            [*command, "-T", "-G", "--", alias],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if completed.returncode != 0:
        return "; ".join(completed.stderr.splitlines()) or f"it ended with status {completed.returncode}"
    options: dict[str, list[str]] = {}
    for line in completed.stdout.splitlines():
        name, _, value = line.partition(" ")
        options.setdefault(name.lower(), []).append(value)
    return options


def _file_below(home: Path) -> list[str]:
    """Return what has ssh read the file below ``HOME``, as we go by that; it goes by the password database alone."""
    file = home / ".ssh/config"
    return ["-F", str(file) if file.is_file() else "none"]


def _expanded(name: str, alias: str, options: Options) -> str:
    """Return the name of a key with what ssh puts into it only when it reads the key (ssh_config(5), TOKENS)."""
    host = options.get("hostname", [alias])[0]
    tokens = {
        "%": "%",
        "d": str(Path("~").expanduser()),
        "h": host,
        "i": str(os.getuid()),
        "k": options.get("hostkeyalias", [host])[0],
        "L": platform.node().partition(".")[0],
        "l": platform.node(),
        "n": alias,
        "p": options.get("port", ["22"])[0],
        "r": options.get("user", [""])[0],
        "u": getpass.getuser(),
    }
    return _TOKEN.sub(
        lambda found: os.environ.get(found[2], found[0]) if found[2] else tokens.get(found[1], found[0]), name
    )


def _read(alias: str) -> Options:
    """Return what ``~/.ssh/config`` says, as far as it can be understood without ssh."""
    import paramiko  # takes a tenth of a second

    file = Path("~/.ssh/config").expanduser()
    try:
        if not file.is_file():
            return {}
        if _INCLUDE.search(file.read_text(errors="replace")):
            raise UsageError(
                f"cannot read {file}: it includes others, which only ssh can follow, and there is no ssh that works",
                hint="apt-get install --no-install-recommends openssh-client",
            )
        found = paramiko.SSHConfig.from_path(str(file)).lookup(alias)
    except (OSError, ImportError, ValueError, paramiko.SSHException) as error:
        raise UsageError(f"cannot read {file}: {error}", hint="see ssh_config(5)") from error
    return {name: value if isinstance(value, list) else [str(value)] for name, value in found.items()}
