# SPDX-License-Identifier: Apache-2.0
"""The keys that a machine is offered: those of files, as far as they can be used, and those of the agent."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import paramiko

from kvtest.errors import HostError, UsageError
from kvtest.host.ssh_address import SSHAddress

_USUAL = ("rsa", "ecdsa", "ed25519")
_KINDS = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
_BEGIN, _END = "-----BEGIN ", "PRIVATE KEY-----"
_OPENSSH = b"openssh-key-v1\0"
_LONGEST = 1 << 16  # bytes of a file that are looked at
_AGENT = "those of the agent"
_AGENT_VARIABLE = "SSH_AUTH_SOCK"


@attrs.frozen
class Key:
    """A key that can be used.

    Args:
        name: What it is called in messages.
        key: The key.
    """

    name: str
    key: paramiko.PKey


@attrs.frozen
class Unusable:
    """A file without a key that can be used.

    Args:
        path: The file.
        reason: What is the matter, with the file's name.
        hint: What to do.
    """

    path: Path
    reason: str
    hint: str


@attrs.frozen
class Offer:
    """What a machine is offered.

    Args:
        keys: The keys, in their order.
        unusable: The files that cannot be used.
    """

    keys: Sequence[Key]
    unusable: Sequence[Unusable]


def check(address: SSHAddress) -> None:
    """Check what can be checked of the keys for a machine without connecting to it.

    Args:
        address: The machine.

    Raises:
        UsageError: The key that the user has chosen cannot be used.
        HostError: There is none of the keys that are configured.
    """
    with agent(address) as opened:
        offer(address, opened)


@contextlib.contextmanager
def agent(address: SSHAddress) -> Iterator[paramiko.Agent | None]:
    """Talk to the agent, if there is one.

    Args:
        address: The machine that its keys are for.
    """
    if address.agent_socket == "none":
        yield None
        return
    try:
        with _variable(_AGENT_VARIABLE, address.agent_socket):  # paramiko asks nobody else
            opened = paramiko.Agent()  # has no keys where there is none
    except paramiko.SSHException:  # something else answers
        yield None
        return
    with contextlib.closing(opened):
        yield opened


@contextlib.contextmanager
def _variable(name: str, text: str) -> Iterator[None]:
    """Set a variable of the environment for a moment; leave it as it is if there is no text."""
    before = os.environ.get(name)
    if text:
        os.environ[name] = text
    try:
        yield
    finally:
        if text:
            os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def offer(address: SSHAddress, agent: paramiko.Agent | None) -> Offer:
    """Return what a machine is offered.

    Args:
        address: The machine.
        agent: The agent, which may have the key of a file that cannot be read.

    Raises:
        UsageError: The key that the user has chosen cannot be used.
        HostError: There is none of the keys that are configured.
    """
    held = {key.asbytes(): key for key in agent.get_keys()} if agent is not None else {}
    usual = [Path(f"~/.ssh/id_{kind}").expanduser() for kind in _USUAL]
    files = [path for path in address.keys or usual if path.is_file()]
    keys, unusable = [], []
    for path in files:
        found = _load(path, held)
        if isinstance(found, Key):
            keys.append(found)
        else:
            unusable.append(found)
    if address.key_is_chosen and unusable:
        raise UsageError(f"--ssh-key: {unusable[0].reason}", hint=unusable[0].hint)
    if address.agent:
        known = [one.key.asbytes() for one in keys]
        keys += [Key(_AGENT, key) for blob, key in held.items() if blob not in known]
    if address.keys and not files and not keys:
        raise HostError(
            f"{address.text}: there is no key {', '.join(map(str, address.keys))}",
            hint="see --ssh-key, and IdentityFile in ~/.ssh/config",
        )
    return Offer(keys, unusable)


def _load(path: Path, held: Mapping[bytes, paramiko.PKey]) -> Key | Unusable:
    """Return the key of a file, from the agent where the file alone does not do."""
    try:
        with path.open("rb") as stream:
            text = stream.read(_LONGEST).decode(errors="replace")
    except OSError as error:
        return Unusable(path, f"cannot read the key {path}: {error.strerror}", "may you read it?")
    if (public := _public(text)) is not None:
        if public in held:
            return Key(f"{path} of the agent", held[public])
        other = path.with_suffix("") if path.suffix == ".pub" else None
        named = f": {other}" if other is not None and other.is_file() else ""
        return Unusable(path, f"{path} is a public key", f"give the private one that belongs to it{named}")
    if not text.lstrip().startswith(_BEGIN) or _END not in text:
        return Unusable(path, f"{path} is no private key", "`ssh-keygen -t ed25519` makes one")
    found = _read(path)
    if isinstance(found, paramiko.PKey):
        return Key(str(path), found)
    public = _public_half(path, text)
    if public is not None and public in held:
        return Key(f"{path} of the agent", held[public])
    if isinstance(found, paramiko.PasswordRequiredException):
        said = f"{path} has a passphrase, for which kvtest does not ask, and no agent has it"
        agent = "" if os.environ.get(_AGENT_VARIABLE) else 'eval "$(ssh-agent)"; '
        return Unusable(path, said, f"give it to the agent: {agent}ssh-add {path}")
    said = f"{path} is a private key that cannot be used: {found}"
    return Unusable(
        path, said, f"does `ssh-keygen -y -f {path}` work? Keys of hardware are used where an agent has them"
    )


def _read(path: Path) -> paramiko.PKey | Exception:
    """Return the private key of a file, with its certificate if there is one; or why that cannot be had."""
    reason: Exception | None = None
    for kind in _KINDS:
        try:
            key = kind.from_private_key_file(str(path))
        except paramiko.PasswordRequiredException as error:
            return error
        except (paramiko.SSHException, ValueError, IndexError, OSError) as error:
            reason = reason or error
            continue
        certificate = Path(f"{path}-cert.pub")
        if certificate.is_file():
            with contextlib.suppress(paramiko.SSHException, ValueError, OSError):
                key.load_certificate(str(certificate))
        return key
    assert reason is not None
    return reason


def _public_half(path: Path, text: str) -> bytes | None:
    """Return the public key that belongs to a private one that cannot be read."""
    body = "".join(line for line in text.splitlines() if not line.startswith("-----"))
    with contextlib.suppress(binascii.Error, ValueError):
        data = base64.b64decode(body)
        if data.startswith(_OPENSSH):
            message = paramiko.Message(data[len(_OPENSSH) :])
            for _ in ("cipher", "derivation", "its options"):
                message.get_string()
            message.get_int()  # how many keys there are
            return message.get_string()
    with contextlib.suppress(OSError):
        return _public(Path(f"{path}.pub").read_text(errors="replace"))
    return None


def _public(text: str) -> bytes | None:
    """Return the key of a line of a ``.pub`` file; ``None`` if it is none."""
    kind, _, rest = text.strip().partition(" ")
    try:
        blob = base64.b64decode(rest.partition(" ")[0], validate=True)
    except (binascii.Error, ValueError):
        return None
    return blob if kind and blob[4:].startswith(kind.encode()) else None
