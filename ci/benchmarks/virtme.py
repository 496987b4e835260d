# SPDX-License-Identifier: Apache-2.0
"""virtme-ng: installed for one run of the benchmarks, in a directory of its own, and fresh VMs by it."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from attrs import frozen

from kvtest.deadline import Deadline
from kvtest.errors import DeadlineExceededError, KvtestError
from kvtest.image import bootstrap
from kvtest.image.recipe import find_kernel
from kvtest.ownership import run
from kvtest.settings import Settings
from kvtest.vm import Accelerator

# What it needs of the host besides QEMU and kmod: a program, and the Debian package that brings it.
_NEEDS = {"busybox": "busybox-static", "file": "file"}
_INSTALL_SECONDS = 300.0
_VM_SECONDS = 180.0
_ANSWER = "kvtest has its answer"  # in no kernel log: virtme-ng hands commands to the guest in base 64


class UnavailableError(Exception):
    """virtme-ng cannot run here; the message says why."""


@frozen
class FreshVM:
    """How long one VM took.

    Args:
        answer: Seconds from the start of virtme-ng to what a command in the guest printed.
        end: Seconds until virtme-ng had ended.
    """

    answer: float
    end: float


@frozen
class VirtmeNg:
    """An installed virtme-ng.

    Args:
        directory: Where it is, and whatever it writes.
        version: Its version.
        kernel: The kernel that it boots.
        accelerator: How it runs guests.
    """

    directory: Path
    version: str
    kernel: Path
    accelerator: Accelerator

    @classmethod
    def install(cls, settings: Settings, accelerator: Accelerator, directory: Path) -> VirtmeNg:
        """Install it.

        Args:
            settings: Which kernel, and where packages come from.
            accelerator: How it is to run guests.
            directory: Where to.

        Raises:
            UnavailableError: It cannot be had here.
        """
        _install_packages([package for program, package in _NEEDS.items() if shutil.which(program) is None])
        python = directory / "venv/bin/python"
        _do(sys.executable, "-m", "venv", directory / "venv")
        _do(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "virtme-ng")
        version = _do(python, "-c", "import importlib.metadata as m; print(m.version('virtme-ng'))").strip()
        return cls(directory, version, _kernel(settings, directory), accelerator)

    @property
    def command(self) -> list[str]:
        """What starts a VM with one processor, as our guests have it.

        In its favour: without ``--force-9p`` it waits 3 s for a virtiofsd of QEMU that it does not use in the end.
        ``--verbose``, because only the console is sure to show what a command prints: the other way is there if the
        guest, which has the host's files, has udev. ``loglevel``, because the console would be slowed by the log.
        """
        return [
            "vng",
            *(["--disable-kvm"] if self.accelerator is Accelerator.TCG else []),
            *("--force-9p", "--cpus", "1", "--verbose", "--append", "loglevel=1"),
            *("--run", str(self.kernel), "--exec", f"echo {_ANSWER}"),
        ]

    def fresh_vm(self) -> FreshVM:
        """Start a VM, have it answer, and wait for its end.

        Raises:
            UnavailableError: It did not answer.
        """
        environment = {
            **os.environ,
            "PATH": f"{self.directory}/venv/bin:{os.environ['PATH']}:/usr/sbin:/sbin",
            "HOME": str(self.directory),
            "XDG_CACHE_HOME": str(self.directory),
        }
        deadline, begin = Deadline(_VM_SECONDS), time.perf_counter()
        with subprocess.Popen(
            self.command,
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            bufsize=0,
        ) as process:
            try:
                answer = _read_to_end(process, deadline) - begin
            finally:
                with contextlib.suppress(ProcessLookupError):  # what it has started is in its process group
                    os.killpg(process.pid, signal.SIGKILL)
        return FreshVM(answer, time.perf_counter() - begin)


def _read_to_end(process: subprocess.Popen[bytes], deadline: Deadline) -> float:
    """Return when the answer came. The pipe ends with the last process that has it: QEMU, or virtme-ng after it."""
    assert process.stdout is not None
    output, answered = bytearray(), None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    while poll.poll(deadline.remaining_ms):
        data = os.read(process.stdout.fileno(), 1 << 16)
        if not data:
            break
        output += data
        if answered is None and _ANSWER.encode() in output:
            answered = time.perf_counter()
    if answered is None:
        last = output.decode(errors="replace").strip().splitlines()[-5:]
        raise UnavailableError(f"its VM did not answer within {deadline.elapsed:.0f} s; its last lines: {last}")
    return answered


def _kernel(settings: Settings, directory: Path) -> Path:
    """Return a kernel that virtme-ng can boot, of the same version as our guests'; its modules lie beside it.

    A guest of virtme-ng gets its files by 9P or virtiofs. Debian's cloud kernels, which ours are, have no 9P, and
    Debian 12 has no virtiofsd that virtme-ng takes: so it gets the flavour for all machines.
    """
    kernel = find_kernel(settings.kernel)
    if kernel.suite is None or kernel.package is None:
        raise UnavailableError(f"{settings.kernel} is no kernel of Debian, so it may lack 9P")
    package = kernel.package.replace("-cloud-", "-")
    try:
        archive, _ = bootstrap.unpack(kernel.suite, [package], settings.mirror, directory)
    except (KvtestError, OSError) as error:
        raise UnavailableError(f"could not get its kernel, {package}: {error}") from error
    root = directory / "kernel"
    bootstrap.extract(archive, root, _place)
    images = [*root.glob("boot/vmlinuz-*"), *root.glob("lib/modules/*/vmlinuz")]
    if not images:
        raise UnavailableError(f"the package {package} brought no kernel")
    return images[0]


def _place(name: str) -> str | None:
    name = name.removeprefix("usr/")  # where newer packages have it
    return name if name.startswith(("boot/vmlinuz-", "lib/modules/")) else None


def _install_packages(packages: list[str]) -> None:
    if not packages:
        return
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise UnavailableError(f"it needs what Debian calls {', '.join(packages)} ({' '.join(install)}, as root)")
    _do("apt-get", "update")
    _do(*install, DEBIAN_FRONTEND="noninteractive")


def _do(*command: str | Path, **environment: str) -> str:
    """Run a command and return what it printed.

    Raises:
        UnavailableError: It failed.
    """
    name = " ".join([Path(command[0]).name, *map(str, command[1:4])])
    try:
        result = run(command, environment={**os.environ, **environment}, deadline=_INSTALL_SECONDS)
    except (DeadlineExceededError, KvtestError) as error:
        raise UnavailableError(f"{name}: {error}") from error
    if result.status != 0:
        last = (result.stderr or result.stdout).strip().splitlines()[-3:]
        raise UnavailableError(f"{name} failed: {' / '.join(last)}")
    return result.stdout
