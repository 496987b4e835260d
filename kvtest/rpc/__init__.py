# SPDX-License-Identifier: Apache-2.0
"""ttRPC: unary calls, many at once, over any byte stream.

The wire format is that of containerd's ttrpc (PROTOCOL.md). This package imports only the standard library,
``kvtest.errors`` and ``kvtest.deadline``, because it runs in guests too.
"""
