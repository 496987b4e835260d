# SPDX-License-Identifier: Apache-2.0
"""Status codes of gRPC, which ttRPC shares."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """The codes (grpc/grpc, doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


def name_of(code: int) -> str:
    """Return what to call a code in messages, whether it is one of these or not."""
    try:
        return Code(code).name
    except ValueError:
        return f"status {code}"
