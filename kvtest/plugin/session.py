# SPDX-License-Identifier: Apache-2.0
"""What one pytest process shares between its tests: the settings, the guests, the host."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kvtest.census import HEIRS, Ledger, Marks
from kvtest.errors import HostError, KvtestError
from kvtest.guest.libc import die_with_parent
from kvtest.harness import Guest, GuestFactory, RunningMachine
from kvtest.host.local import LocalHost
from kvtest.ownership.owner import current_keeper
from kvtest.plugin import options
from kvtest.plugin.state import SESSION
from kvtest.plugin.timeouts import suspended
from kvtest.report.directory import claim
from kvtest.start import GuestStart, ReadAhead
from kvtest.transport import Transport
from kvtest.vm import Configuration
from kvtest.vm.qmp import start_monitors

if TYPE_CHECKING:
    from kvtest.runtime.agent_machine import AgentMachines
    from kvtest.vsock.monitor import VsockMonitor

_ONCE = "what is made once"
_AHEAD = "the guest that was started ahead"
_LONGEST_NAME = 150  # with room for a suffix below the 255 bytes that file systems take


class Session:
    """The state of one pytest process.

    Args:
        config: pytest's configuration.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.settings = options.loaded(config).settings
        self.results = results_directory(config)
        worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
        self._workers = getattr(config, "workerinput", {}).get("workercount", 1)
        if hasattr(config, "workerinput"):
            die_with_parent(os.getppid())
        # Lasts as long as this process, so it is there before the first census.
        current_keeper().end_heirs(HEIRS.mark())
        self.factory = GuestFactory(self.settings, self.results / "guests", label=f"guest-{worker}")
        self.ledger = Ledger(Marks(), self.settings.census_ignore)
        self._host: LocalHost | None = None
        self._agents: AgentMachines | None = None
        self._monitor: VsockMonitor | HostError | None = None
        self._prepared = False
        self._problem: KvtestError | None = None

    def prepare(self) -> None:
        """Find QEMU, build the image and decide the accelerator, once.

        Raises:
            KvtestError: Something is wrong with this machine; the same for every test that asks.
        """
        if not self._prepared:
            self._prepared = True
            try:
                self.serve_monitors()
                with suspended(), self.ledger.lasting(_ONCE):
                    self.factory.prepare()
            except KvtestError as error:
                self._problem = error
        if self._problem is not None:
            raise self._problem

    @property
    def agents(self) -> AgentMachines:
        """Makes machines with an agent and nothing of ours in them; what they need once is made on first use.

        Raises:
            KvtestError: Something is wrong with this machine, or with what the settings name.
        """
        if self._agents is None:
            from kvtest.runtime.agent_machine import AgentMachines

            self.serve_monitors()
            agents = AgentMachines(self.factory)
            with suspended(), self.ledger.lasting(_ONCE):
                agents.prepare()
                _ = self.factory.accelerator
            self._agents = agents
        return self._agents

    @property
    def monitor(self) -> VsockMonitor:
        """Sees what the host's kernel passes between guests and itself over vsock.

        Raises:
            HostError: There is no way to see it here; the same whenever it is asked for.
        """
        if self._monitor is None:
            from kvtest.vsock.monitor import VsockMonitor

            try:
                with self.ledger.lasting("the vsock monitor"):
                    self._monitor = VsockMonitor()
            except HostError as error:
                self._monitor = error
        if isinstance(self._monitor, HostError):
            raise self._monitor
        return self._monitor

    def serve_monitors(self) -> None:
        """Start what serves the monitors of all guests of this process, for as long as it runs."""
        with self.ledger.lasting(_ONCE):
            start_monitors()

    @property
    def host(self) -> LocalHost:
        """The host, for work in a process other than pytest's."""
        if self._host is None:
            with self.ledger.lasting("the host"):
                self._host = LocalHost(self.results / "host")
        return self._host

    def artifacts(self, item: pytest.Item) -> Path:
        """Return the artifact directory of a test, made if need be."""
        path = artifacts_directory(item)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def own(self, machine: RunningMachine) -> None:
        """Count the host's vsock sockets to and from a machine, where they are the kernel's."""
        if Transport.VHOST_VSOCK in machine.vm.configuration.transports:
            self.ledger.marks.cids.add(machine.cid)

    def make_template(self, configuration: Configuration) -> None:
        """Make the template of a kind of guest, if need be: a test does not wait for it in its own time."""
        if self.settings.guest_start is GuestStart.CLONE:
            with suspended():
                self.factory.template(configuration)

    def drop_ahead(self) -> None:
        """End the guest that was started ahead, if there is one."""
        self.ledger.release(_AHEAD)
        self.factory.drop_ahead()

    def start(self, configuration: Configuration, *, cold: bool) -> Guest:
        """Start a guest for one test; see :meth:`kvtest.harness.GuestFactory.start`."""
        self.ledger.release(_AHEAD)  # it belongs to this test, or ends
        return self.factory.start(configuration, cold=cold)

    def start_ahead(self, configuration: Configuration) -> None:
        """Start the next test's guest, if this process has a processor for it."""
        if self.settings.read_ahead is ReadAhead.ON or (
            self.settings.read_ahead is ReadAhead.AUTO and self._workers * 2 <= len(os.sched_getaffinity(0))
        ):
            with self.ledger.lasting(_AHEAD):
                self.factory.start_ahead(configuration)

    def close(self) -> None:
        """End everything that was started."""
        self.factory.drop_ahead()
        if self._host is not None:
            self._host.close()
        if self._monitor is not None and not isinstance(self._monitor, HostError):
            self._monitor.close()


def session_of(config: pytest.Config) -> Session:
    """Return the session of this process, made on first use."""
    if SESSION not in config.stash:
        config.stash[SESSION] = Session(config)
    return config.stash[SESSION]


def results_directory(config: pytest.Config) -> Path:
    """Return the directory for results, made if need be.

    Raises:
        SettingError: It cannot be used.
    """
    path = options.loaded(config).settings.results
    claim(path)
    return path


def artifacts_directory(item: pytest.Item) -> Path:
    """Return where the artifacts of a test belong."""
    return options.loaded(item.config).settings.results / "artifacts" / directory_name(item.nodeid)


def directory_name(test: str) -> str:
    """Return a file name for a test's ID: readable, unique, and safe on every file system."""
    safe = re.sub(r"[^\w.=+-]+", "-", test.replace(".py::", "-").replace("/", "-")).strip("-")
    file, _, parameters = test.partition("[")
    # Where nothing else becomes a dash, no two tests get one name.
    told_apart = "-" not in file and re.fullmatch(r"[\w.=+-]*\]?", parameters)
    if told_apart and safe.isascii() and len(safe) <= _LONGEST_NAME:
        return safe
    import hashlib

    digest = hashlib.sha256(test.encode()).hexdigest()[:12]
    return f"{safe.encode('ascii', 'replace').decode().replace('?', '_')[:_LONGEST_NAME]}-{digest}"
