# SPDX-License-Identifier: Apache-2.0
"""Where an ``ssh://`` host is: what the user wrote, and what ``~/.ssh/config`` says of it."""

from __future__ import annotations

import getpass
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from kvtest.errors import UsageError

SCHEME = "ssh"
_FORM = "ssh://[USER@]MACHINE[:PORT]"
_PORT = 22


@attrs.frozen
class SSHAddress:
    """Where to connect to, and with which keys.

    Args:
        text: What the user wrote, for messages.
        user: The user there.
        machine: The machine's name or address.
        port: Its port.
        keys: Private keys to try; the agent's and the usual ones if there are none.
        known_hosts: Files with the keys of machines; the first gets new ones.
        flags: The flags of ``kvtest run`` that name it again.
    """

    text: str
    user: str
    machine: str
    port: int
    keys: tuple[Path, ...]
    known_hosts: tuple[Path, ...]
    flags: tuple[str, ...]

    @property
    def known_name(self) -> str:
        """The machine as files of known hosts have it."""
        return self.machine if self.port == _PORT else f"[{self.machine}]:{self.port}"

    @classmethod
    def of(cls, text: str, key: Path | None = None, known_hosts: Path | None = None) -> SSHAddress:
        """Return the address of a host.

        Args:
            text: What the user wrote, such as ``ssh://lab7`` or ``ssh://me@lab7:2222``.
            key: The private key to use.
            known_hosts: The file of known hosts to use.

        Raises:
            UsageError: It is no such address, or ``~/.ssh/config`` asks for what cannot be done.
        """
        parts = urlsplit(text)
        try:
            port = parts.port
        except ValueError:
            port = 0
        plain = not parts.path.strip("/") and not parts.query and not parts.fragment and parts.password is None
        if parts.scheme != SCHEME or not parts.hostname or port == 0 or not plain:
            raise UsageError(f"{text!r} is no host", hint=f"{_FORM}; keys are used, never passwords")
        # urlsplit() gives the name in small letters, and aliases in ~/.ssh/config may have capitals.
        alias = parts.netloc.rpartition("@")[2]
        alias = parts.hostname if alias.startswith("[") else alias.partition(":")[0]
        said = _configured(alias)
        for option in ("proxyjump", "proxycommand"):
            if said.get(option, ["none"]) != ["none"]:
                raise UsageError(
                    f"{text}: ~/.ssh/config reaches {alias} through {option}, which kvtest does not do",
                    hint=f"forward a port: ssh -N -L 2222:{alias}:22 JUMPHOST, then --host ssh://localhost:2222",
                )
        home = Path("~").expanduser()
        usual = [home / ".ssh/known_hosts", home / ".ssh/known_hosts2", Path("/etc/ssh/ssh_known_hosts")]
        files = [Path(name).expanduser() for line in said.get("userknownhostsfile", []) for name in line.split()]
        given = {"--ssh-key": key, "--ssh-known-hosts": known_hosts}
        return cls(
            text,
            parts.username or said.get("user", [getpass.getuser()])[0],
            said.get("hostname", [alias])[0],
            port or int(said.get("port", [str(_PORT)])[0]),
            (key,) if key is not None else tuple(Path(name).expanduser() for name in said.get("identityfile", [])),
            (known_hosts,) if known_hosts is not None else tuple([*files, usual[-1]] if files else usual),
            (f"--host={text}", *(f"{flag}={path}" for flag, path in given.items() if path is not None)),
        )


def _configured(alias: str) -> dict[str, list[str]]:
    """Return what ``~/.ssh/config`` says of a machine: values by option, in small letters."""
    import paramiko  # takes a tenth of a second

    file = Path("~/.ssh/config").expanduser()
    if not file.is_file():
        return {}
    try:
        found = paramiko.SSHConfig.from_path(str(file)).lookup(alias)
    except (OSError, paramiko.SSHException) as error:
        raise UsageError(f"cannot read {file}: {error}", hint="see ssh_config(5)") from error
    return {name: value if isinstance(value, list) else [str(value)] for name, value in found.items()}
