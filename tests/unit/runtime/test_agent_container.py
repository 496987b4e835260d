# SPDX-License-Identifier: Apache-2.0
"""How an agent tells the end of a stream."""

from __future__ import annotations

import pytest

from kvtest.errors import ConnectionLostError, RPCError
from kvtest.rpc.status import Code
from kvtest.runtime.agent_container import Process


class Told(Process):
    """A process whose output comes as it is told here."""

    def __init__(self, *answers: bytes | RPCError) -> None:
        self._answers = list(answers)

    def read(self, *_: object, **__: object) -> bytes:
        answer = self._answers.pop(0)
        if isinstance(answer, RPCError):
            raise answer
        return answer


@pytest.mark.parametrize("end", [b"", RPCError(Code.OUT_OF_RANGE, "the stream has ended")], ids=["empty", "status"])
def test_no_bytes_and_a_status_are_both_the_end(end: bytes | RPCError) -> None:
    assert Told(b"one ", b"two", end).read_all(deadline=5.0) == b"one two"


def test_a_lost_connection_is_no_end() -> None:
    with pytest.raises(ConnectionLostError):
        Told(b"one", ConnectionLostError("it ended")).read_all(deadline=5.0)


def test_output_that_ends_before_is_told() -> None:
    with pytest.raises(EOFError, match="without b'three'; it was b'one two'"):
        Told(b"one ", b"two", b"").read_until(b"three", deadline=5.0)
