# SPDX-License-Identifier: Apache-2.0
"""Whether a machine is the one that it is taken for: its key, and the files of known hosts (sshd(8)).

paramiko's own reading of them knows one key of a kind for a machine, takes lines with a marker for broken, and ends at
the first that is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from kvtest.errors import HostError
from kvtest.host.ssh_address import SSHAddress

_REVOKED = "@revoked"
_HASHED = re.compile(r"\|1\|[^|]*\|[^|]*")


def prefer_known(transport: paramiko.Transport, address: SSHAddress) -> None:
    """Have a machine that has several keys show one of a kind that is known, as ssh does.

    Args:
        transport: The connection, before it is used.
        address: The machine.
    """
    known = _known(address, address.known_name) or _known_without_port(address)
    kinds = {key.get_name() for key in known}
    if "ssh-rsa" in kinds:
        kinds |= {"rsa-sha2-512", "rsa-sha2-256"}
    options = transport.get_security_options()
    options.key_types = sorted(options.key_types, key=lambda kind: kind not in kinds)


def check(address: SSHAddress, key: paramiko.PKey) -> None:
    """Check that the key of a machine is known.

    Args:
        address: The machine.
        key: The key that it has shown.

    Raises:
        HostError: It is not known, another one is, or it is revoked.
    """
    for file, marker, blob in _lines(address.known_hosts):
        if marker == _REVOKED and key.get_base64() in blob.split():  # whichever machines it is revoked for
            raise HostError(
                f"{address.text}: the key of {address.known_name} is revoked in {file}",
                hint="somebody else may be answering in its place; ask whoever revoked it",
            )
    known = _known(address, address.known_name)
    if key in known or (not known and key in _known_without_port(address)):
        return
    shown = f"{key.get_name()} {fingerprint(key)}"
    if known:
        expected = ", ".join(f"{one.get_name()} {fingerprint(one)}" for one in known)
        raise HostError(
            f"{address.text}: the key of {address.known_name} has changed: it shows {shown}, known is {expected}",
            hint="somebody else may be answering in its place. If it was installed anew: "
            f"ssh-keygen -f {address.known_hosts[0]} -R '{address.known_name}', then add its new key",
        )
    listed = f"in none of {', '.join(map(str, address.known_hosts))}" if address.known_hosts else "known nowhere"
    raise HostError(
        f"{address.text}: the key of {address.known_name} is {listed}; it shows {shown}",
        hint=f"if that is its fingerprint, add it: {_adding(address, key)}",
    )


def _adding(address: SSHAddress, key: paramiko.PKey) -> str:
    """Return the command that makes the key of a machine known."""
    kind = "ecdsa" if key.get_name().startswith("ecdsa") else key.get_name().removeprefix("ssh-")
    scan = f"ssh-keyscan -p {address.port} -t {kind} {address.machine}"
    if address.known_as:
        scan += f" | sed 's/^[^# ]* /{address.known_as} /'"
    if not address.known_hosts:
        return f"{scan} >> FILE, and run with --ssh-known-hosts FILE"
    return f"{scan} >> {address.known_hosts[0]}"


def fingerprint(key: paramiko.PKey) -> str:
    """Return the fingerprint of a key as ``ssh-keygen -l`` prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")


def _known_without_port(address: SSHAddress) -> list[paramiko.PKey]:
    """Return the keys that are known of a machine whatever the port; those of another sshd there may be others."""
    return [] if address.known_as else _known(address, address.machine)


def _known(address: SSHAddress, name: str) -> list[paramiko.PKey]:
    """Return the keys that are known of a machine by some name."""
    found = []
    for _, marker, line in _lines(address.known_hosts):
        # kvtest does not know certificates: a machine with one needs its key in the file, too.
        if marker or not _matches(name.lower(), line.split(maxsplit=1)[0]):
            continue
        try:
            entry = HostKeyEntry.from_line(line)
        except (InvalidHostKey, paramiko.SSHException, binascii.Error, ValueError):  # ssh passes over them, too
            continue
        if entry is not None and entry.key is not None:
            found.append(entry.key)
    return found


def _matches(name: str, patterns: str) -> bool:
    """Whether the first field of a line is of a machine: names, also hashed, patterns, and patterns after a ``!``."""
    matched = False
    for pattern in patterns.split(","):
        if _HASHED.fullmatch(pattern):
            matched |= _is_hash_of(name, pattern)
        elif _pattern(pattern.removeprefix("!")).fullmatch(name):
            if pattern.startswith("!"):
                return False
            matched = True
    return matched


def _pattern(text: str) -> re.Pattern[str]:
    """Return an expression for a pattern; brackets are no classes there, as they are around addresses."""
    return re.compile(re.escape(text.lower()).replace(r"\*", ".*").replace(r"\?", "."))


def _is_hash_of(name: str, hashed: str) -> bool:
    _, _, salt, digest = hashed.split("|")
    try:
        return hmac.digest(base64.b64decode(salt), name.encode(), "sha1") == base64.b64decode(digest)
    except binascii.Error:
        return False


def _lines(files: Sequence[Path]) -> Iterator[tuple[Path, str, str]]:
    """Yield the lines of files that are there: each file, a line's marker if it has one, and the rest of the line."""
    for file in files:
        try:
            text = file.read_text(errors="replace")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise HostError(
                f"cannot read {file}: {error.strerror}", hint="choose another: --ssh-known-hosts"
            ) from error
        for line in map(str.strip, text.splitlines()):
            if line and line[0] != "#":
                marker, _, rest = line.partition(" ") if line[0] == "@" else ("", "", line)
                yield file, marker, rest.strip()
