# SPDX-License-Identifier: Apache-2.0
"""The reference agent's process."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket

from kvtest.guest import early, libc
from kvtest.guest.agent.cgroup import EventFiles, FreezeWatch, OOMWatch
from kvtest.guest.agent.connections import Clients
from kvtest.guest.agent.console import CONSOLE_PORT, LOG_PORT, DebugConsole, Log
from kvtest.guest.agent.container import Tools
from kvtest.guest.agent.crun import Crun
from kvtest.guest.agent.reaper import Reaper
from kvtest.guest.agent.removals import Removals
from kvtest.guest.agent.service import VERSION, Service, replies
from kvtest.guest.ports import Ports
from kvtest.guest.reactor import Reactor
from kvtest.rpc import api

API = "agent-3.30"
PORT = 1024
SERIAL_PORT = "agent.channel.0"
_DIRECTORY = "/run/kvtest/agent"
_CONTROLLERS = "+cpu +memory +pids"
_BACKLOG = 128


def main() -> None:
    """Serve for ever; as the first process, which finds nothing mounted, in a guest that is made ready before."""
    if os.getpid() == 1:
        os.environ.update(early.ENVIRONMENT)
        early.mount_all()
    agent = ReferenceAgent()
    while True:
        agent.turn()


class ReferenceAgent:
    """The agent of one guest."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        removals = self._clean_up()
        # A container has a copy of all that is mounted when it is made, and with it of other containers' disks, which
        # would stay in use as long as it lives.
        libc.share_mounts("/")
        reaper = Reaper(self.reactor)
        crun = Crun(reaper, _DIRECTORY)
        spoken = api.load(API)
        self.log = Log(self.reactor, listen_vsock(LOG_PORT, 1))
        DebugConsole(self.reactor, reaper, listen_vsock(CONSOLE_PORT, _BACKLOG))
        files = EventFiles(self.reactor)
        watches = OOMWatch(files), FreezeWatch(files)
        tools = Tools(self.reactor, reaper, crun, *watches, replies(spoken), removals, _DIRECTORY)
        self.service = Service(spoken, tools)
        self.clients = Clients(self.reactor, self.service.services, self.service.sandbox.prune, self.log.say)
        self._await_serial_port()
        self.clients.listen(listen_vsock(PORT, _BACKLOG))
        self.log.say(f"version {VERSION} listens on vsock port {PORT}")

    def turn(self) -> None:
        """Wait for what comes next and do it; whatever goes wrong with it is told, and the agent goes on."""
        try:
            self.reactor.turn(self.clients.expire())
        except Exception as error:  # one request's failure is no other's
            import traceback

            self.log.say(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")

    def _clean_up(self) -> Removals:
        """Take away what an earlier agent of this guest left; return what removes the rest of it, and more."""
        with open("/sys/fs/cgroup/cgroup.subtree_control", "w", encoding="ascii") as stream:
            stream.write(_CONTROLLERS)
        containers = f"{_DIRECTORY}/containers"
        for name in os.listdir(containers) if os.path.isdir(containers) else []:
            arguments = ["crun", "--root", f"{_DIRECTORY}/crun", "--cgroup-manager", "cgroupfs"]
            os.spawnvp(os.P_WAIT, "crun", [*arguments, "delete", "--force", name])
        removals = Removals(self.reactor, f"{_DIRECTORY}/removed")
        for name in ("containers", "crun", "logs"):
            removals.add(f"{_DIRECTORY}/{name}")
        return removals

    def _await_serial_port(self) -> None:
        """Serve the virtio-serial port, now or when the kernel announces it."""
        ports = Ports()  # bound before the first look
        if self.clients.serve_port(SERIAL_PORT):
            ports.close()
            return

        def announced() -> None:
            ports.drain()
            if self.clients.serve_port(SERIAL_PORT):
                self.reactor.forget(ports.events.fileno())
                ports.close()

        self.reactor.watch(ports.events.fileno(), selectors.EVENT_READ, announced)


def listen_vsock(port: int, backlog: int) -> socket.socket:
    """Return a socket that listens on a vsock port of this guest."""
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    with contextlib.ExitStack() as stack:
        stack.enter_context(listener)
        listener.bind((socket.VMADDR_CID_ANY, port))
        listener.listen(backlog)
        stack.pop_all()
    return listener
