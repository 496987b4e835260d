# SPDX-License-Identifier: Apache-2.0
"""The command line.

Exit statuses are those of :class:`kvtest.cli.status.Status`.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line; the entry point of the package."""
    from kvtest.cli.main import run

    run()
