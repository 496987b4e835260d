# SPDX-License-Identifier: Apache-2.0
"""The processor that a guest sees."""

from __future__ import annotations

from pathlib import Path

from kvtest.accelerator import Accelerator

# Everything that TCG can do, but for two features that cost a guest much more than they give: with ERMS kernels copy a
# byte at a time, which TCG translates as it stands (half the throughput of vsock), and SMAP is switched twice per copy.
# CMPXCHG16B is left out because of a panic seen once in some thousand guests of QEMU 7.2: an interrupt right after one
# in Linux's allocator saved an EFLAGS of garbage, with the bits of an operand; TCG seems to take its flags from a state
# that is out of date.
_OF_TCG = "max,erms=off,smap=off,cx16=off"
# Where the processor below KVM is TCG's, a guest that uses XSAVE loses what is in its registers: with Linux 5.10 its
# Python ended with MemoryError or SIGSEGV after the first change of process, each time; without XSAVE, never.
ON_EMULATED_KVM = "host,xsave=off"
_MODEL_OF_TCG = "QEMU TCG CPU"


def processor(accelerator: Accelerator) -> str:
    """Return the value of QEMU's ``-cpu``.

    Args:
        accelerator: What runs the guest.
    """
    if accelerator is Accelerator.TCG:
        return _OF_TCG
    return ON_EMULATED_KVM if _MODEL_OF_TCG in host_cpu() else "host"


def host_cpu() -> str:
    """Return what a guest sees of this machine's processor: its model and its flags (proc(5), /proc/cpuinfo)."""
    fields = ("model name", "flags", "microcode")
    lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(fields))
