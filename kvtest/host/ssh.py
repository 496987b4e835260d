# SPDX-License-Identifier: Apache-2.0
"""Connections to other machines: only to those whose key is known, and only with keys."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko

from kvtest.errors import HostError
from kvtest.host import known_hosts
from kvtest.host.ssh_address import SSHAddress

_CONNECTING_SECONDS = 20.0
# What goes wrong is said once, by us.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


def connect(address: SSHAddress) -> paramiko.SSHClient:
    """Return a connection.

    Args:
        address: Where to.

    Raises:
        HostError: There is no such machine, it does not answer, its key is not the known one, or it refuses ours.
    """
    keys = [str(key) for key in address.keys if key.is_file()]
    if address.keys and not keys:
        named = ", ".join(map(str, address.keys))
        raise HostError(
            f"{address.text}: there is no key {named}", hint="see --ssh-key, and IdentityFile in ~/.ssh/config"
        )

    def make_transport(*given: Any, **named: Any) -> paramiko.Transport:
        transport = paramiko.Transport(*given, **named)
        known_hosts.prefer_known(transport, address)
        return transport

    client = paramiko.SSHClient()
    # It has been told of no machine, so that it asks for every key, and only this answers.
    client.set_missing_host_key_policy(_Check(address))
    try:
        with _explained(address):
            client.connect(
                address.machine,
                address.port,
                address.user,
                key_filename=keys,  # type: ignore[arg-type] # a list is fine
                allow_agent=not address.keys,
                look_for_keys=not address.keys,
                timeout=_CONNECTING_SECONDS,
                banner_timeout=_CONNECTING_SECONDS,
                auth_timeout=_CONNECTING_SECONDS,
                transport_factory=make_transport,
            )
    except BaseException:
        client.close()
        raise
    return client


class _Check(paramiko.MissingHostKeyPolicy):
    """Refuses machines that are not known."""

    def __init__(self, address: SSHAddress) -> None:
        self._address = address

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """Raise if the key is not known."""
        known_hosts.check(self._address, key)


@contextlib.contextmanager
def _explained(address: SSHAddress) -> Iterator[None]:
    """Turn what can go wrong while connecting into one message each."""
    at = f"{address.machine} port {address.port}"
    try:
        yield
    except paramiko.AuthenticationException as error:
        raise _refused(address, str(error)) from error
    except socket.gaierror as error:
        raise HostError(
            f"{address.text}: could not find a machine {address.machine}: {error.strerror}",
            hint="is the name written right? `ssh` takes the same names, also those of ~/.ssh/config",
        ) from error
    except (TimeoutError, paramiko.ssh_exception.NoValidConnectionsError, OSError) as error:
        each = error.errors.values() if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError) else [error]
        seen = sorted(set(map(_reason, each)))
        raise HostError(
            f"{address.text}: could not connect to {at}: {', '.join(seen)}",
            hint="is the machine up, does sshd run on it, and on that port?",
        ) from error
    except (paramiko.SSHException, EOFError, ValueError) as error:
        if "No authentication methods" in str(error):  # there are no keys
            raise _refused(address, str(error)) from error
        raise HostError(
            f"{address.text}: no connection with {at}: {error or type(error).__name__}",
            hint=f"see what `ssh -v -p {address.port} {address.user}@{address.machine}` says",
        ) from error


def _refused(address: SSHAddress, reason: str) -> HostError:
    # As paramiko looks for them.
    usual = [Path(f"~/.ssh/id_{kind}").expanduser() for kind in ("rsa", "ecdsa", "ed25519")]
    tried = [str(key) for key in address.keys or [key for key in usual if key.is_file()]]
    if not address.keys and os.environ.get("SSH_AUTH_SOCK"):
        tried.insert(0, "those of the agent")
    return HostError(
        f"{address.text}: {address.machine} lets nobody in as {address.user} with the keys that were tried "
        f"({', '.join(tried) or 'there are none'}): {reason}",
        hint=f"ssh-copy-id -p {address.port} {address.user}@{address.machine}; of a key with a passphrase, ssh-add KEY",
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
