# SPDX-License-Identifier: Apache-2.0
"""One request to a control daemon."""

from __future__ import annotations

from typing import Any

from kvtest.deadline import Deadline
from kvtest.errors import ConnectionLostError, GuestError, RPCError
from kvtest.guest.messages import SERVICE, pack, unpack
from kvtest.rpc.client import Client, PendingCall
from kvtest.rpc.status import Code


class Requests:
    """Sends requests and checks the replies.

    Args:
        client: The connection.
        timeout: Seconds for a request that is given no deadline.
    """

    def __init__(self, client: Client, timeout: float) -> None:
        self.client = client
        self.timeout = timeout

    def send(
        self, method: str, document: dict[str, Any], attachment: bytes = b"", deadline: Deadline | float | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """Send one request and return document and attachment of the reply.

        Raises:
            GuestError: The guest refused or failed it.
            ConnectionLostError: The guest is gone.
            DeadlineExceededError: It did not answer in time.
        """
        deadline = self.deadline(deadline)
        return self.receive(self.begin(method, document, attachment, deadline), deadline)

    def deadline(self, given: Deadline | float | None) -> Deadline:
        """Return a deadline that was given, or that of a request that is given none."""
        return Deadline.of(self.timeout if given is None else given)

    def begin(self, method: str, document: dict[str, Any], attachment: bytes, deadline: Deadline) -> PendingCall:
        """Send one request without waiting for the reply."""
        try:
            payload = pack(document, attachment)
        except TypeError as error:
            raise GuestError(str(error)) from error
        return self.client.begin(SERVICE, method, payload, deadline)

    def receive(self, call: PendingCall, deadline: Deadline) -> tuple[dict[str, Any], bytes]:
        """Wait for a reply; raises as :meth:`send` does."""
        try:
            return unpack(call.result(deadline))
        except ConnectionLostError:
            raise
        except RPCError as error:
            if error.code == Code.DEADLINE_EXCEEDED:  # the other side's clock was a little faster than ours
                raise deadline.exceeded(f"the answer to {call.name}") from None
            raise GuestError(error.message) from error
