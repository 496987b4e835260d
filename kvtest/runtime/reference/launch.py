# SPDX-License-Identifier: Apache-2.0
"""The start of a pod's machine, which comes up while its shim loads what it serves the pod with.

So what is imported here is what starting QEMU takes, and no more.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

from kvtest.runtime.reference.handover import handed_over
from kvtest.vm.configuration import Configuration
from kvtest.vm.machine import VM
from kvtest.vm.template import Template


def launch(artifacts: Path, name: str) -> Future[VM]:
    """Start a machine as it was handed over, before this returns, or as this process finds out, which takes longer.

    Args:
        artifacts: Gets what there is to be seen of it, in a directory of its name.
        name: What to call it.

    Returns:
        The machine, which :meth:`~kvtest.vm.machine.VM.boot` waits for, or why it could not be started.
    """
    launched: Future[VM] = Future()
    told = handed_over(os.environ)
    if told is None:
        Thread(target=_launch, args=(launched, artifacts, name, None), name="launch", daemon=True).start()
    else:
        _launch(launched, artifacts, name, told)
    return launched


def _launch(launched: Future[VM], artifacts: Path, name: str, told: tuple[Configuration, Template] | None) -> None:
    try:
        if told is None:
            from kvtest.runtime.reference import preparation

            told = preparation.find_out(artifacts)
        vm = VM(told[0], artifacts / name, name, told[1])
        vm.launch()
    except Exception as error:  # whoever asks for the machine gets it
        launched.set_exception(error)
    else:
        launched.set_result(vm)
