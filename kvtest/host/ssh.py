# SPDX-License-Identifier: Apache-2.0
"""Connections to other machines: only to those whose key is known, and only with keys."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Any

import paramiko
from paramiko.auth_strategy import AuthSource, AuthStrategy, SourceResult

from kvtest.errors import HostError
from kvtest.host import known_hosts, private_keys
from kvtest.host.ssh_address import SSHAddress

_CONNECTING_SECONDS = 20.0
# What goes wrong is said once, by us.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


def connect(address: SSHAddress) -> paramiko.SSHClient:
    """Return a connection.

    Args:
        address: Where to.

    Raises:
        UsageError: The key that the user has chosen cannot be used.
        HostError: There is no such machine, it does not answer, its key is not the known one, or it refuses ours.
    """

    def make_transport(*given: Any, **named: Any) -> paramiko.Transport:
        transport = paramiko.Transport(*given, **named)
        transport.auth_timeout = _CONNECTING_SECONDS
        known_hosts.prefer_known(transport, address)
        return transport

    with private_keys.agent(address) as agent:  # it is open for as long as it may be asked to sign something
        offer = private_keys.offer(address, agent)
        client = paramiko.SSHClient()
        # It has been told of no machine, so that it asks for every key, and only this answers.
        client.set_missing_host_key_policy(_Check(address))
        try:
            with _explained(address, offer):
                client.connect(
                    address.machine,
                    address.port,
                    address.user,
                    timeout=_CONNECTING_SECONDS,
                    banner_timeout=_CONNECTING_SECONDS,
                    auth_strategy=_Keys(address.user, offer),
                    transport_factory=make_transport,
                )
        except BaseException:
            client.close()
            raise
    return client


class _Keys(AuthStrategy):
    """Offers keys one after the other, and nothing else.

    Args:
        user: The user there.
        offer: The keys.
    """

    def __init__(self, user: str, offer: private_keys.Offer) -> None:
        super().__init__(paramiko.SSHConfig())
        self._user, self._offer = user, offer

    def get_sources(self) -> Iterator[AuthSource]:
        """Yield nothing: what paramiko does with them has no room for servers that want more than a key."""
        return iter(())

    def authenticate(self, transport: paramiko.Transport) -> list[SourceResult]:
        """Return once a key is enough, and raise what was said of the last if none is."""
        refusal: paramiko.SSHException = paramiko.AuthenticationException()
        for number, one in enumerate(self._offer.keys, start=1):
            try:
                further = transport.auth_publickey(self._user, one.key)
            except paramiko.SSHException as error:
                refusal = error
                if not transport.is_active():
                    said = f"it ended the connection after {number} of them; --ssh-key chooses one"
                    raise paramiko.AuthenticationException(said) from error
                continue
            if not further:
                return []
            refusal = paramiko.AuthenticationException(f"a key is not enough there, {' or '.join(further)} is wanted")
        raise paramiko.AuthenticationException(str(refusal)) from refusal


class _Check(paramiko.MissingHostKeyPolicy):
    """Refuses machines that are not known."""

    def __init__(self, address: SSHAddress) -> None:
        self._address = address

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """Raise if the key is not known."""
        known_hosts.check(self._address, key)


@contextlib.contextmanager
def _explained(address: SSHAddress, offer: private_keys.Offer) -> Iterator[None]:
    """Turn what can go wrong while connecting into one message each."""
    at = f"{address.machine} port {address.port}"
    try:
        yield
    except paramiko.AuthenticationException as error:
        raise _refused(address, offer, str(error)) from error
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
        raise HostError(
            f"{address.text}: no connection with {at}: {error or type(error).__name__}",
            hint=f"see what `ssh -v -p {address.port} {address.user}@{address.machine}` says",
        ) from error


def _refused(address: SSHAddress, offer: private_keys.Offer, reason: str) -> HostError:
    tried = ", ".join(dict.fromkeys(one.name for one in offer.keys)) or "there are none"
    said = "; ".join([*([reason.rstrip(".")] if reason else []), *(one.reason for one in offer.unusable)])
    hints = [*(one.hint for one in offer.unusable), f"ssh-copy-id -p {address.port} {address.user}@{address.machine}"]
    return HostError(
        f"{address.text}: {address.machine} lets nobody in as {address.user} with the keys that were tried ({tried})"
        + (f": {said}" if said else ""),
        hint="; or ".join(hints),
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
