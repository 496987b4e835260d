# SPDX-License-Identifier: Apache-2.0
"""Whether lab hosts can be had here. A run has them only if it is told to: they are no part of the verdict."""

from __future__ import annotations

from collections.abc import Iterator

from kvtest.doctor.report import Check, Finding, Need, Status
from kvtest.doctor.system import System
from kvtest.host.memory import LAB_MEMORY
from kvtest.settings import Settings

_NAME = "lab hosts"
_NEEDS = (Need.LAB,)


def _lab(system: System, _settings: Settings) -> Iterator[Finding]:
    wrong: dict[str, str] = {}  # to their cures
    memory = None if system.room.memory is None else system.room.memory >> 20
    if memory is not None and memory < LAB_MEMORY:
        wrong[f"{memory} MiB of memory available, a lab host takes {LAB_MEMORY} MiB"] = (
            "end what takes memory, or run on another machine: --host ssh://[USER@]MACHINE"
        )
    tool = next(iter(system.found("mkfs.erofs")), None)
    if tool is None or tool.problem is not None:
        what = "no mkfs.erofs" if tool is None else f"{tool.path}: {tool.problem}"
        wrong[f"{what}, which makes their disks"] = "apt-get install --no-install-recommends erofs-utils"
    if wrong:
        yield Finding(_NAME, "; ".join(wrong), Status.MISSING, _NEEDS, "\n".join(wrong.values()))
    else:
        told = "memory unknown" if memory is None else f"{memory} MiB of memory available"
        yield Finding(_NAME, f"{told}, {LAB_MEMORY} MiB needed; mkfs.erofs is there", Status.OK, _NEEDS)


CHECKS = (Check(_NAME, _NEEDS, _lab),)
