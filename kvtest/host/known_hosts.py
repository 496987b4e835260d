# SPDX-License-Identifier: Apache-2.0
"""Whether a machine is the one that it is taken for: its key, and the files of known hosts (sshd(8)).

paramiko's own reading of them knows one key of a kind for a machine, takes lines with a marker for broken, and ends at
the first that is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from kvtest.errors import HostError
from kvtest.host.ssh_address import SSHAddress

_REVOKED = "@revoked"


def prefer_known(transport: paramiko.Transport, address: SSHAddress) -> None:
    """Have a machine that has several keys show one of a kind that is known, as ssh does.

    Args:
        transport: The connection, before it is used.
        address: The machine.
    """
    kinds = {key.get_name() for key in _known(address)}
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
    known = _known(address)
    if key in known:
        return
    shown = f"{key.get_name()} {fingerprint(key)}"
    if known:
        expected = ", ".join(f"{one.get_name()} {fingerprint(one)}" for one in known)
        raise HostError(
            f"{address.text}: the key of {address.known_name} has changed: it shows {shown}, known is {expected}",
            hint="somebody else may be answering in its place. If it was installed anew: "
            f"ssh-keygen -f {address.known_hosts[0]} -R '{address.known_name}', then add its new key",
        )
    kind = "ecdsa" if key.get_name().startswith("ecdsa") else key.get_name().removeprefix("ssh-")
    raise HostError(
        f"{address.text}: the key of {address.known_name} is in none of {', '.join(map(str, address.known_hosts))}; "
        f"it shows {shown}",
        hint="if that is its fingerprint, add it: "
        f"ssh-keyscan -p {address.port} -t {kind} {address.machine} >> {address.known_hosts[0]}",
    )


def fingerprint(key: paramiko.PKey) -> str:
    """Return the fingerprint of a key as ``ssh-keygen -l`` prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")


def _known(address: SSHAddress) -> list[paramiko.PKey]:
    """Return the keys that are known of a machine."""
    found = []
    for _, marker, line in _lines(address.known_hosts):
        if marker:  # kvtest does not know certificates: a machine with one needs its key in the file, too
            continue
        try:
            entry = HostKeyEntry.from_line(line)
        except (InvalidHostKey, paramiko.SSHException, binascii.Error, ValueError):  # ssh passes over them, too
            continue
        if entry is None or entry.key is None:
            continue
        of_line = paramiko.HostKeys()
        for name in entry.hostnames or []:
            of_line.add(name, entry.key.get_name(), entry.key)
        if of_line.lookup(address.known_name) is not None:
            found.append(entry.key)
    return found


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
