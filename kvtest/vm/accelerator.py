# SPDX-License-Identifier: Apache-2.0
"""KVM or TCG, decided by running a guest.

That ``/dev/kvm`` opens, answers and makes a VM proves nothing: where KVM is paravirtual only, a stock kernel hangs for
ever. So the real kernel is booted with a hand-made init of four system calls, under a deadline. Where nobody has asked
for KVM, TCG boots the same beside it: a KVM that is slower is of no use, and nobody waits for one that hangs. The
answer holds until the next boot of the host and is kept in the cache.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from kvtest.accelerator import Accelerator, AcceleratorChoice
from kvtest.deadline import Deadline
from kvtest.errors import AcceleratorError, DeadlineExceededError
from kvtest.image.cpio import Archive
from kvtest.ownership import OwnedProcess, RunDirectory, write_atomically
from kvtest.vm.command_line import CommandLine, Group, option, raw
from kvtest.vm.console import Console
from kvtest.vm.qemu import QEMU

MEMORY = "accelerator.json"
"""The file of a cache that keeps the answer."""
KVM_DEVICE = Path("/dev/kvm")
_MARKER = b"kvtest-probe: user space runs\n"
_PROBE_SECONDS = 20.0
# A KVM that works is several times faster than TCG; that one process came late must not count against it.
_MORE_THAN_TCG = 0.5
_LEAST_SECONDS = 1.0


@frozen
class Decision:
    """Which accelerator is used, and why.

    Args:
        accelerator: The one to use.
        reason: Why it was chosen, for people.
    """

    accelerator: Accelerator
    reason: str


def decide(
    choice: AcceleratorChoice, qemu: QEMU, kernel: Path, cache: Path, patience: float = _PROBE_SECONDS
) -> Decision:
    """Return the accelerator to use.

    Args:
        choice: What the user asked for.
        qemu: The QEMU to use.
        kernel: A kernel image to try.
        cache: The cache directory, which keeps the answer per boot of the host.
        patience: Seconds that a guest gets to run under a KVM that was asked for: one that is emulated itself, on a
            busy machine, takes longer than anybody would wait who has not asked for it.

    Raises:
        AcceleratorError: ``kvm`` was asked for and cannot run a guest; the reason is in the message.
    """
    if choice is AcceleratorChoice.TCG:
        return Decision(Accelerator.TCG, "asked for")
    problem = _remembered_problem(choice, qemu, kernel, cache, patience)
    if choice is AcceleratorChoice.KVM:
        if problem:
            raise AcceleratorError(f"KVM cannot run a guest here: {problem}", hint="use accelerator=auto or tcg")
        return Decision(Accelerator.KVM, "asked for")
    if problem:
        return Decision(Accelerator.TCG, f"KVM cannot run a guest here: {problem}")
    return Decision(Accelerator.KVM, "a probe guest ran")


def _remembered_problem(
    choice: AcceleratorChoice, qemu: QEMU, kernel: Path, cache: Path, patience: float
) -> str | None:
    problem = _device_problem()
    if problem is not None:  # cheap to find, and cured without a reboot (chmod, modprobe): never remembered
        return problem
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    key = {"boot": boot, "qemu": qemu.path, "version": qemu.version, "kernel": str(kernel)}
    memory = cache / MEMORY
    try:
        remembered = json.loads(memory.read_text())
        found: str | None = remembered["problem"]
        # One that was too slow for whoever did not ask for it may do for whoever does.
        if remembered["key"] == key and (found is None or remembered["choice"] == choice.value):
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or not ours: probe again and write it anew
    if choice is AcceleratorChoice.KVM:
        problem = probe(qemu, kernel, Accelerator.KVM, Deadline(patience))
    else:
        problem = race(qemu, kernel, Deadline(_PROBE_SECONDS))
    with contextlib.suppress(OSError):  # an answer that cannot be kept is asked for again
        cache.mkdir(parents=True, exist_ok=True)
        write_atomically(memory, json.dumps({"key": key, "choice": choice.value, "problem": problem}))
    return problem


def on_another_boot(memory: str, boot: str) -> str:
    """Return what the cache of a machine keeps, for the same machine after another boot.

    Args:
        memory: What it keeps.
        boot: The identifier of the boot (random(4), boot_id).
    """
    document = json.loads(memory)
    return json.dumps({**document, "key": {**document["key"], "boot": boot.strip()}})


def _device_problem() -> str | None:
    if not KVM_DEVICE.exists():
        return f"there is no {KVM_DEVICE} (modprobe kvm_intel or kvm_amd, or enable nested virtualization)"
    try:
        os.close(os.open(KVM_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        return f"no permission to open {KVM_DEVICE} (usermod -aG kvm {os.environ.get('USER', 'USER')}, then log in)"
    except OSError as error:
        return f"{KVM_DEVICE} does not open: {error.strerror}"
    return None


class _Probe:
    """A machine that boots a kernel with an init that prints a line and resets.

    Args:
        qemu: The QEMU to use.
        kernel: The kernel image.
        accelerator: What runs it.
        base: A directory for its files, which exists.
    """

    def __init__(self, qemu: QEMU, kernel: Path, accelerator: Accelerator, base: Path) -> None:
        archive = Archive()
        archive.directory("dev")
        archive.character_device("dev/console", 5, 1, mode=0o600)
        archive.file("init", _init_program(), mode=0o755)
        (base / "initramfs").write_bytes(archive.finish())
        self._console = Console(base / "console.log")
        machine = Group(
            "probe",
            (
                option("nodefaults"),
                option("no-user-config"),
                option("no-reboot"),
                option("display", "none"),
                option("machine", "q35", accel=accelerator.value),
                option("cpu", "host" if accelerator is Accelerator.KVM else "max"),
                option("m", "128M"),
                raw("kernel", kernel),
                raw("initrd", base / "initramfs"),
                raw("append", "console=ttyS0 quiet panic=-1 no_timer_check"),
                option("chardev", "file", id="console", path=self._console.path),
                raw("serial", "chardev:console"),
            ),
        )
        self._runs = Deadline(None)
        self.process = OwnedProcess(CommandLine(qemu.path, (machine,)).words, output=base / "output")

    def problem(self, deadline: Deadline) -> str | None:
        """Wait for its end, and return what went wrong.

        Args:
            deadline: When it has to have got to its init.
        """
        try:
            self.process.wait(deadline)
        except DeadlineExceededError:
            if _MARKER.decode().strip() not in self._console.text():
                return f"a probe guest did not reach user space within {self._runs.elapsed:.0f} s"
        if _MARKER.decode().strip() in self._console.text():
            return None
        return self._console.panic() or self.process.tail(1) or f"a probe guest ended early ({self.process.ending})"


@contextlib.contextmanager
def _probing(qemu: QEMU, kernel: Path, accelerator: Accelerator) -> Iterator[_Probe]:
    with RunDirectory() as directory:
        probe = _Probe(qemu, kernel, accelerator, directory.path)
        with probe.process:
            yield probe


def probe(qemu: QEMU, kernel: Path, accelerator: Accelerator, deadline: Deadline) -> str | None:
    """Boot ``kernel`` with an init that prints a line and resets.

    Returns:
        ``None`` if the line appeared, else what happened instead.
    """
    with _probing(qemu, kernel, accelerator) as machine:
        return machine.problem(deadline)


def race(qemu: QEMU, kernel: Path, deadline: Deadline) -> str | None:
    """Boot ``kernel`` under KVM and, beside it, under TCG.

    Returns:
        ``None`` if KVM got to user space before the deadline, and not long after TCG at the latest; else what happened
        instead.
    """
    with _probing(qemu, kernel, Accelerator.KVM) as machine, _probing(qemu, kernel, Accelerator.TCG) as other:
        select.select([machine.process.pidfd, other.process.pidfd], [], [], deadline.remaining)
        if not machine.process.running or other.problem(Deadline(0.0)) is not None:
            return machine.problem(deadline)
        needed = deadline.elapsed
        problem = machine.problem(deadline.within(max(_MORE_THAN_TCG * needed, _LEAST_SECONDS)))
        return problem and f"{problem}; under TCG one did within {needed:.1f} s"


def _init_program() -> bytes:
    """Return a static x86-64 ELF executable: write(1, marker), sync(), reboot(RB_AUTOBOOT), exit(1)."""
    base, header = 0x400000, 64 + 56

    def text(marker: int) -> bytes:
        return b"".join(
            (
                bytes.fromhex("b801000000 bf01000000 48be"),  # eax = write, edi = standard output, rsi =
                struct.pack("<Q", marker),
                b"\xba" + struct.pack("<I", len(_MARKER)),  # edx =
                bytes.fromhex("0f05"),
                bytes.fromhex("b8a2000000 0f05"),  # sync
                bytes.fromhex("b8a9000000 bfaddee1fe be69191228 ba67452301 0f05"),  # reboot(magic, magic, AUTOBOOT)
                bytes.fromhex("b83c000000 bf01000000 0f05"),  # exit(1)
            )
        )

    marker = base + header + len(text(0))
    total = header + len(text(0)) + len(_MARKER)
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    elf = identity + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + header, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, total, total, 0x1000)
    return elf + segment + text(marker) + _MARKER
