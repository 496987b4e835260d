# SPDX-License-Identifier: Apache-2.0
"""What pods' machines are made of, as whoever has prepared them hands it to shims.

A shim can find out itself, but that takes longer than to restore a machine: the recipes, the guest's code and QEMU have
to be looked at to know which template is theirs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from kvtest.accelerator import Accelerator
from kvtest.transport import Transport
from kvtest.vm.configuration import Configuration
from kvtest.vm.qemu import QEMU
from kvtest.vm.template import Template

#: The variable of a shim's environment that has it.
VARIABLE = "CONTAINERD_SHIM_KVTEST_MACHINE"


def hand_over(configuration: Configuration, template: Template) -> dict[str, str]:
    """Return what is put into the environment of shims.

    Args:
        configuration: What machines are made of.
        template: What they are clones of.
    """
    told = {
        **attrs.asdict(configuration, recurse=False),
        "qemu": attrs.asdict(configuration.qemu),
        "transports": sorted(configuration.transports),
    }
    whole = {"configuration": told, "template": attrs.asdict(template)}
    return {VARIABLE: json.dumps(whole, default=str)}


def handed_over(environment: Mapping[str, str]) -> tuple[Configuration, Template] | None:
    """Return what was handed over, if anything was.

    Args:
        environment: The environment.
    """
    if VARIABLE not in environment:
        return None
    told = json.loads(environment[VARIABLE])
    return _configuration(told["configuration"]), Template.said(Path(told["template"]["directory"]), told["template"])


def _configuration(told: dict[str, Any]) -> Configuration:
    base = told["run_directory"]
    return Configuration(
        **{
            **told,
            "qemu": QEMU(**told["qemu"]),
            "accelerator": Accelerator(told["accelerator"]),
            "kernel": Path(told["kernel"]),
            "initramfs": Path(told["initramfs"]),
            "transports": frozenset(map(Transport, told["transports"])),
            "serial_ports": tuple(told["serial_ports"]),
            "kernel_arguments": tuple(told["kernel_arguments"]),
            "run_directory": None if base is None else Path(base),
        }
    )
