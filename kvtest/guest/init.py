# SPDX-License-Identifier: Apache-2.0
"""The first process of a guest: mounts, loads modules, starts the control daemon and watches over it.

What goes wrong is told in one line on the console, ``kvtest-init: …``, and then the first process ends, which panics
the kernel: a guest that cannot be controlled must not linger.
"""

from __future__ import annotations

import os
import signal
import socket
import struct

from kvtest.guest import agent_start, early, libc
from kvtest.guest.daemon import Daemon
from kvtest.guest.messages import CONTROL_PORT
from kvtest.guest.ports import Ports


def main() -> None:
    """Be the first process; never returns while the guest runs."""
    try:
        os.environ.update(early.ENVIRONMENT)
        os.chdir("/")
        early.mount_all()
        early.configure()
        early.load_modules()
        _raise_loopback()
        ports = Ports()
        channel = os.open(ports.wait(CONTROL_PORT), os.O_RDWR | os.O_CLOEXEC)
        agent = agent_start.Agent() if agent_start.described() else None
        if agent is not None:
            agent.await_listening()  # a guest that answers on the control channel has its agent
        daemon = os.fork()
        if daemon == 0:
            _run_daemon(channel, ports)
        os.close(channel)
        ports.close()
        _supervise(daemon, agent)
    except BaseException as error:
        early.give_up(f"{type(error).__name__}: {error}")


def _raise_loopback() -> None:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0x1 | 0x40)  # IFF_UP, IFF_RUNNING (netdevice(7))
        fcntl.ioctl(any_socket, 0x8914, request)  # SIOCSIFFLAGS


def _run_daemon(channel: int, ports: Ports) -> None:
    """Be the control daemon; an error leaves its traceback on the console."""
    try:
        ending = Daemon(channel, ports).serve()
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os.sync()
    # Either the host asked for it, or nobody is left who could.
    print(f"kvtest: powering off ({ending})", flush=True)
    libc.power_off()
    os._exit(1)


def _supervise(daemon: int, agent: agent_start.Agent | None) -> None:
    """Reap for ever; the end of the daemon is the end of the guest, that of the agent is told."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        pid, status = os.wait()
        if pid == daemon:
            early.give_up(f"the control daemon {agent_start.ending(status)}")
        if agent is not None and pid == agent.pid:
            print(f"kvtest: {agent.name} {agent_start.ending(status)}", flush=True)
