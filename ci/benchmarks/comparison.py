# SPDX-License-Identifier: Apache-2.0
"""A fresh VM by the tool that people would pick instead, against a clone of ours."""

from __future__ import annotations

import shlex
import statistics
import tempfile
from pathlib import Path

from benchmarks.figures import Bench, Figure, Figures, figure, unavailable
from benchmarks.guests import clone
from benchmarks.virtme import FreshVM, UnavailableError, VirtmeNg
from kvtest.ownership import temporary_directory

VMS = 5
CLONES_PER_VM = 8


def comparison_figures(bench: Bench) -> Figures:
    """Yield what virtme-ng takes to its first answer, and how many of our clones answer in that time.

    Both are measured in turns, so that whatever else the machine does meanwhile slows both.
    """
    vms: list[FreshVM] = []
    clones: list[float] = []
    with temporary_directory(Path(tempfile.gettempdir()), "kvtest-bench-") as directory:
        try:
            tool = VirtmeNg.install(bench.settings, bench.factory.accelerator.accelerator, directory)
            tool.fresh_vm()  # what the host's kernel remembers of the files; clones have the same
            clone(bench, vsock=False)
            for _ in range(VMS):
                vms.append(tool.fresh_vm())
                clones += [clone(bench, vsock=False)[0] for _ in range(CLONES_PER_VM)]
        except UnavailableError as error:
            yield "virtme_ng_first_answer", unavailable(str(error))
            return
    answers = [vm.answer for vm in vms]
    command = shlex.join(tool.command).replace(str(tool.kernel), tool.kernel.name)
    details: Figure = {"version": tool.version, "command": command}
    yield "virtme_ng_first_answer", figure(answers, "s") | details
    yield "virtme_ng_until_its_end", figure([vm.end for vm in vms], "s") | details
    yield "clone_first_answer_meanwhile", figure(clones, "ms")
    ratio = statistics.median(answers) * 1000 / statistics.median(clones)
    yield "virtme_ng_to_clone", {"median": round(ratio, 1), "unit": "times a clone's first answer", "samples": len(vms)}
