# SPDX-License-Identifier: Apache-2.0
"""What is in the suites: their tests, and the requirements that each of them names.

As a program it prints them as JSON: pytest collects in a process of its own.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from kvtest.plugin.collection import requirements_of
from kvtest.resources import suites_directory
from kvtest.transport import Transport

ROOT = Path(__file__).parents[1]


@functools.cache
def suite_tests() -> Mapping[str, tuple[str, ...]]:
    """Return the IDs of the requirements that each test of the shipped suites names, by the test's ID."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("KVTEST_", "PYTEST"))}
    completed = subprocess.run(
        [sys.executable, "-m", __name__], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert completed.returncode == 0, completed.stderr
    return {test: tuple(names) for test, names in json.loads(completed.stdout).items()}


class _Collected:
    def __init__(self) -> None:
        self.tests: dict[str, list[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.tests = {item.nodeid: requirements_of(item) for item in session.items}


def _main() -> int:
    collected, said = _Collected(), io.StringIO()
    suites = suites_directory()
    rings = sorted(str(path.parent) for path in suites.glob("*/__init__.py"))
    options = ["--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", str(suites / "pytest.ini")]
    options.append(f"--kvtest-transport={','.join(Transport)}")  # some tests are for one that not every machine has
    with contextlib.redirect_stdout(said):
        status = pytest.main([*options, f"--rootdir={suites.parent}", *rings], plugins=[collected])
    if status != pytest.ExitCode.OK:
        sys.stderr.write(said.getvalue())
        return int(status)
    json.dump(collected.tests, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
