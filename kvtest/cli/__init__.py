# SPDX-License-Identifier: Apache-2.0
"""The command line.

Exit statuses: 0 conformant, 1 a requirement is violated, 2 wrong usage or an unfit environment, 3 kvtest itself failed.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line; the entry point of the package."""
    from kvtest.cli.main import run

    run()
