# SPDX-License-Identifier: Apache-2.0
"""``containerd-shim-kvtest-v2``: the program that containerd runs for each container."""

from __future__ import annotations

import sys
from pathlib import Path

from kvtest.errors import KvtestError
from kvtest.runtime.reference.arguments import parse
from kvtest.runtime.reference.state import NAME


def main() -> None:
    """Do what the command line says; an error is one message, with status 1."""
    if sys.argv[1:] in ([f"{dashes}{word}"] for dashes in ("-", "--") for word in ("v", "version")):
        from importlib import metadata

        sys.stdout.write(f"{NAME} {metadata.version('kvtest')}\n")
        return
    try:
        invocation = parse(sys.argv[1:], Path.cwd())
        if invocation.action == "start":
            from kvtest.runtime.reference.start import start

            sys.stdin.buffer.read()  # options, which this runtime has none of
            sys.stdout.write(start(invocation))
            sys.stdout.flush()
        else:
            from kvtest.runtime.reference.delete import delete

            sys.stdout.buffer.write(delete(invocation))
            sys.stdout.flush()
    except KvtestError as error:
        sys.stderr.write(f"{NAME}: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
