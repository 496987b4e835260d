# SPDX-License-Identifier: Apache-2.0
"""What workers of xdist tell the controller about their collection.

Workers send nothing but the IDs of what they have collected, and IDs are not to be changed. So a worker leaves files in
the results directory before it says that it has collected, and the controller reads them.
"""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from xdist.workermanage import WorkerController

_RUN = "kvtest_run"  # in a worker's input: which run it belongs to
_TOKEN = pytest.StashKey[str]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    """Tell a worker which run it belongs to."""
    node.workerinput[_RUN] = _token(node.config)


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is a worker whose controller reads notes."""
    return _RUN in getattr(config, "workerinput", {})


def leave(config: pytest.Config, file: str, content: Any) -> None:
    """On a worker, leave something for the controller.

    Args:
        config: pytest's configuration.
        file: The name of the file.
        content: What JSON can hold.
    """
    from kvtest.errors import KvtestError
    from kvtest.ownership import write_atomically
    from kvtest.plugin.session import results_directory

    run = config.workerinput[_RUN]  # type: ignore[attr-defined]
    try:
        write_atomically(results_directory(config) / file, json.dumps({"run": run, "content": content}))
    except (KvtestError, OSError):  # told by the first test, where somebody sees it
        return


def left(config: pytest.Config, file: str) -> Any:
    """Return what a worker of this run has left; ``None`` where none has."""
    from kvtest.plugin.options import loaded

    try:
        path: Path = loaded(config).settings.results / file
        note = json.loads(path.read_bytes())
    except (OSError, ValueError, pytest.UsageError):
        return None
    return note["content"] if note["run"] == _token(config) else None


def _token(config: pytest.Config) -> str:
    """Return what tells this run from the one before it in the same directory."""
    return config.stash.setdefault(_TOKEN, secrets.token_hex(8))
