# SPDX-License-Identifier: Apache-2.0
"""Before the first test: a containerd that does not start is one message and the end of the run.

It is no part of what is under test, and every test that is driven by it would say the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvtest.plugin import notes, options
from kvtest.plugin.collection import uses

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

_FILE = "containerd.json"


def wants_containerd(item: pytest.Item) -> bool:
    """Whether a test's pods are those of a containerd."""
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("driver") == "containerd" and uses(item, "driver")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Try containerd where tests of this process need it; a worker tells the controller that they do."""
    config = session.config
    if config.option.collectonly or not any(map(wants_containerd, session.items)):
        return
    if notes.is_worker(config):
        notes.leave(config, _FILE, content=True)
    else:
        _try(config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: WorkerController) -> None:
    """Try containerd before a worker gets its first test."""
    if notes.left(node.config, _FILE):
        _try(node.config)


def _try(config: pytest.Config) -> None:
    from kvtest.errors import KvtestError
    from kvtest.runtime import preflight

    try:
        preflight.try_containerd(options.loaded(config).settings)
    except KvtestError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.INTERRUPTED)
