# SPDX-License-Identifier: Apache-2.0
"""What workers tell the scheduler: how tests belong together.

Each worker that has tests of ours leaves a note. A run without one is none of our business: it is scheduled as if this
plugin were not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from kvtest.plugin import notes, options
from kvtest.plugin.collection import guest_request, is_ours, uses

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler.protocol import Scheduling
    from xdist.workermanage import WorkerController

    from kvtest.plugin.scheduler import Affinity

_FILE = "schedule.json"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """On a worker, say how its tests belong together."""
    ours = [item for item in session.items if is_ours(item)]
    if not notes.is_worker(session.config) or not ours:
        return
    from kvtest.errors import KvtestError

    try:
        notes.leave(session.config, _FILE, {item.nodeid: _affinity(item) for item in ours})
    except KvtestError:  # a marker that is wrong: told by the test
        return


def _affinity(item: pytest.Item) -> Affinity:
    from kvtest.harness import Scope
    from kvtest.plugin.scheduler import Affinity

    if not (uses(item, "guest") or uses(item, "endpoint")):
        return Affinity("")
    wanted = guest_request(item)
    template = (wanted.kernel, wanted.image, wanted.memory, wanted.cpus, wanted.serial_ports, wanted.kernel_arguments)
    shares = wanted.scope is Scope.MODULE and not wanted.fresh
    group = f"{item.nodeid.partition('::')[0]} {wanted.kernel or ''}".rstrip()
    return Affinity(repr(template), group if shares else "")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Schedule by templates, unless the user wants another distribution."""
    return _Scheduler(config, log) if config.getoption("dist") == "load" else None


class _Scheduler:
    """Schedules as xdist would until it knows that there are tests of ours.

    Args:
        config: pytest's configuration.
        log: Where xdist logs.
    """

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        from xdist.scheduler import LoadScheduling

        self._config = config
        self._collections: dict[WorkerController, list[str]] = {}
        self._chosen: Any = LoadScheduling(config, log)
        self._undecided = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chosen, name)

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        """Take what a worker has collected."""
        self._collections[node] = list(collection)
        self._chosen.add_node_collection(node, collection)

    def schedule(self) -> None:
        """Give every worker work."""
        if self._undecided:
            self._undecided = False
            affinities = _told(self._config)
            if affinities and all(self._collections.values()):
                from kvtest.host.memory import workers_with_room
                from kvtest.plugin.scheduler import TemplateScheduling

                most = workers_with_room(options.loaded(self._config).settings.memory)
                self._chosen = TemplateScheduling(self._config, self._collections, affinities, most)
        self._chosen.schedule()


def _told(config: pytest.Config) -> dict[str, Affinity]:
    """Return what the workers of this run have said."""
    from kvtest.plugin.scheduler import Affinity

    return {test: Affinity(*value) for test, value in (notes.left(config, _FILE) or {}).items()}
