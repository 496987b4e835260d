# SPDX-License-Identifier: Apache-2.0
"""Of which tests the packets of the host kernel's vhost-vsock are kept, by the name that users write."""

from __future__ import annotations

from enum import StrEnum


class Capture(StrEnum):
    """Which tests have a capture among their artifacts."""

    FAILED = "failed"
    """Those that fail, where a capture can be made."""
    ALWAYS = "always"
    NEVER = "never"
