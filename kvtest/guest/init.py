# SPDX-License-Identifier: Apache-2.0
"""The first process of a guest: mounts, loads modules, starts the control daemon and watches over it.

What goes wrong is told in one line on the console, ``kvtest-init: …``, and then the first process ends, which panics
the kernel: a guest that cannot be controlled must not linger.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import sys

from kvtest.guest import agent_start, libc
from kvtest.guest.daemon import Daemon
from kvtest.guest.messages import CONTROL_PORT
from kvtest.guest.ports import Ports

_MOUNTS = (
    ("proc", "/proc", "proc", ""),
    ("sysfs", "/sys", "sysfs", ""),
    ("devtmpfs", "/dev", "devtmpfs", "mode=0755"),
    ("devpts", "/dev/pts", "devpts", "mode=0620,ptmxmode=0666"),
    ("tmpfs", "/dev/shm", "tmpfs", "mode=1777"),
    ("tmpfs", "/run", "tmpfs", "mode=0755"),
    ("tmpfs", "/tmp", "tmpfs", "mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", ""),
)
# The kernel would gather its memory statistics each second, and with an unlucky template every clone begins with that.
_SYSTEM_SETTINGS = {"vm/stat_interval": "3600"}
_MODULES = "/etc/kvtest/modules"
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "TERM": "linux", "LANG": "C.UTF-8"}


def main() -> None:
    """Be the first process; never returns while the guest runs."""
    try:
        os.environ.update(_ENVIRONMENT)
        os.chdir("/")
        _mount()
        _configure()
        _load_modules()
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
        _die(f"{type(error).__name__}: {error}")


def _mount() -> None:
    for source, target, kind, data in _MOUNTS:
        os.makedirs(target, exist_ok=True)
        try:
            libc.mount(source, target, kind, data)
        except OSError as error:
            if error.errno != errno.EBUSY:  # the kernel has mounted it already
                raise


def _configure() -> None:
    for name, value in _SYSTEM_SETTINGS.items():
        with open(f"/proc/sys/{name}", "w", encoding="ascii") as stream:
            stream.write(value)


def _load_modules() -> None:
    with open(_MODULES, encoding="utf-8") as stream:
        paths = stream.read().split()
    if paths:
        # One process for all: starting one takes longer than loading a module.
        names = [os.path.basename(path).removesuffix(".ko") for path in paths]
        status = os.spawnv(os.P_WAIT, "/usr/sbin/modprobe", ["modprobe", "--all", *names])
        if status != 0:
            raise RuntimeError(f"modprobe {' '.join(names)} exited with status {status}")


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
            _die(f"the control daemon {agent_start.ending(status)}")
        if agent is not None and pid == agent.pid:
            print(f"kvtest: {agent.name} {agent_start.ending(status)}", flush=True)


def _die(reason: str) -> None:
    print(f"kvtest-init: {reason}", flush=True)
    sys.stderr.flush()
    os._exit(1)
