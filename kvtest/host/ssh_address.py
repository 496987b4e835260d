# SPDX-License-Identifier: Apache-2.0
"""Where an ``ssh://`` host is: what the user wrote, and what is configured for ``ssh``."""

from __future__ import annotations

import getpass
import os
import re
import socket
from pathlib import Path

import attrs

from kvtest.errors import UsageError
from kvtest.host import ssh_config

SCHEME = "ssh"
_FORM = "ssh://[USER@]MACHINE[:PORT], an IPv6 address in brackets; keys are used, never passwords"
_ADDRESS = re.compile(
    SCHEME + r"://(?:(?P<user>[^/]*)@)?"
    r"(?:\[(?P<bracketed>[^][/@\s-][^][/@\s]*)\]|(?P<plain>[^][:/?#@\s-][^][:/?#@\s]*))"
    r"(?::(?P<port>[^/@]*))?/?"
)
_PASSWORD = re.compile(r"(?<=:)[^/:@].*(?=@)")
_PORT = 22
_LAST_PORT = 65535
_NO_FILES = ("none", "/dev/null")
_FILES_FOR_ALL = tuple(Path(f"/etc/ssh/ssh_known_hosts{number}") for number in ("", "2"))


@attrs.frozen
class SSHAddress:
    """Where to connect to, and with which keys.

    Args:
        text: What the user wrote, for messages.
        user: The user there.
        machine: The machine's name or address.
        port: Its port.
        keys: Private keys to try; the usual ones if there are none.
        key_is_chosen: Whether the user has chosen the key, so that no other is tried.
        agent: Whether all keys of the agent are tried, too.
        agent_socket: Where the agent listens; empty for what ``SSH_AUTH_SOCK`` says, ``none`` for no agent.
        known_as: What the machine is called in files of known hosts; empty for its name and port.
        known_hosts: Files with the keys of machines; the first gets new ones.
        flags: The flags of ``kvtest run`` that name it again.
    """

    text: str
    user: str
    machine: str
    port: int
    keys: tuple[Path, ...]
    key_is_chosen: bool
    agent: bool
    agent_socket: str
    known_as: str
    known_hosts: tuple[Path, ...]
    flags: tuple[str, ...]

    @property
    def name(self) -> str:
        """The machine as the user called it, with the user there and the port if those were given."""
        return self.text.removeprefix(f"{SCHEME}://").rstrip("/")

    @property
    def known_name(self) -> str:
        """The machine as files of known hosts have it."""
        return self.known_as or (self.machine if self.port == _PORT else f"[{self.machine}]:{self.port}")

    @classmethod
    def of(cls, text: str, key: Path | None = None, known_hosts: Path | None = None) -> SSHAddress:
        """Return the address of a host. Nobody is connected to.

        Args:
            text: What the user wrote, such as ``ssh://lab7`` or ``ssh://me@lab7:2222``.
            key: The private key to use.
            known_hosts: The file of known hosts to use.

        Raises:
            UsageError: It is no such address, or ssh is configured for what cannot be done.
        """
        user, alias, port = _parts(text)
        said = ssh_config.lookup(alias, user, port)
        for option in ("proxyjump", "proxycommand"):
            if said.get(option, ["none"]) != ["none"]:
                raise UsageError(
                    f"{text}: ssh is configured to reach {alias} through {option}, which kvtest does not do",
                    hint=f"forward a port: ssh -N -L 2222:{alias}:22 JUMPHOST, then --host ssh://localhost:2222",
                )
        if said.get("revokedhostkeys", ["none"]) != ["none"]:
            raise UsageError(
                f"{text}: ssh is configured to know revoked keys by RevokedHostKeys, which kvtest does not read",
                hint="put them into a file of known hosts, with @revoked; see SSH_KNOWN_HOSTS FILE FORMAT in sshd(8)",
            )
        keys = [Path(name).expanduser() for name in said.get("identityfile", []) if name != "none"]
        usual = [Path(f"~/.ssh/known_hosts{number}").expanduser() for number in ("", "2")]
        files = [*_files(said, "userknownhostsfile", usual), *_files(said, "globalknownhostsfile", _FILES_FOR_ALL)]
        given = {"--ssh-key": key, "--ssh-known-hosts": known_hosts}
        return cls(
            text,
            user or said.get("user", [getpass.getuser()])[0],
            said.get("hostname", [alias])[0],
            port or _configured_port(said.get("port", [str(_PORT)])[0], alias),
            (key,) if key is not None else tuple(keys),
            key is not None,
            key is None and said.get("identitiesonly") != ["yes"],
            _agent_socket(said.get("identityagent", [""])[0]),
            said.get("hostkeyalias", [""])[0],
            (known_hosts,) if known_hosts is not None else tuple(files),
            (f"--host={text}", *(f"{flag}={path}" for flag, path in given.items() if path is not None)),
        )


def _parts(text: str) -> tuple[str | None, str, int | None]:
    """Return the user, the machine and the port that somebody wrote."""
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise _no_host(text)
    user, port = found["user"], found["port"]
    if user and ":" in user:
        raise _no_host(text, ": it has a password, and passwords are not used")
    if port and _port(port) is None:
        raise _no_host(text, f": {port!r} is no port, which is a number from 1 to {_LAST_PORT}")
    return user or None, found["bracketed"] or found["plain"], _port(port) if port else None


def _no_host(text: str, why: str = "") -> UsageError:
    return UsageError(f"{_PASSWORD.sub('…', text)!r} is no host{why}", hint=_FORM)


def _port(text: str) -> int | None:
    """Return the port of a number; ``None`` if it is none."""
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(_LAST_PORT)) else 0
    return number if 0 < number <= _LAST_PORT else None


def _configured_port(text: str, alias: str) -> int:
    """Return a port of the configuration, where it may have the name of a service."""
    try:
        return _port(text) or socket.getservbyname(text, "tcp")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"~/.ssh/config: {text!r} of {alias} is no port", hint=f"Port is a number from 1 to {_LAST_PORT}"
        ) from error


def _agent_socket(text: str) -> str:
    """Return where an agent listens, of what IdentityAgent says."""
    if text in ("", "none"):
        return text
    if text == "SSH_AUTH_SOCK":
        return ""
    return os.environ.get(text[1:], "") if text.startswith("$") else str(Path(text).expanduser())


def _files(said: ssh_config.Options, option: str, usual: list[Path] | tuple[Path, ...]) -> list[Path]:
    """Return the files of known hosts that an option names."""
    if option not in said:
        return list(usual)
    return [Path(name).expanduser() for line in said[option] for name in line.split() if name not in _NO_FILES]
