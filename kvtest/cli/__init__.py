# SPDX-License-Identifier: Apache-2.0
"""The command line.

Exit statuses are those of :class:`kvtest.cli.status.Status`.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; the entry point of the package."""
    try:
        from kvtest.cli.main import run

        run()
    except KeyboardInterrupt:  # before a command that knows better has begun
        sys.stderr.write("kvtest: interrupted\n")
        sys.exit(130)
