# SPDX-License-Identifier: Apache-2.0
"""Whether the virtual machines of a runtime, as it is configured, are those that its profile finds."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvtest.runtime.profile import Profile


def chosen(runtime: Mapping[str, Any], sections: Mapping[str, Any]) -> str | None:
    """Return which hypervisor a configuration of Kata Containers chooses.

    runtime-rs names one of several; the files of the Go runtime have one.

    Args:
        runtime: The section ``runtime``.
        sections: The sections ``hypervisor.NAME``, by name.
    """
    named = runtime.get("hypervisor_name")
    return str(named) if named in sections else next(iter(sections), None)


def other_than_found(profile: Profile, configuration: Path | None) -> str | None:
    """Return what is to be said where a runtime has virtual machines that its profile does not find.

    Args:
        profile: The profile.
        configuration: The runtime's configuration file; drop-in files beside it are not looked at.
    """
    if profile.vm is None or profile.vm.hypervisor is None or configuration is None:
        return None
    try:
        content = tomllib.loads(configuration.read_text(encoding="utf-8"))
        name = chosen(content.get("runtime", {}), content.get("hypervisor", {}))
    except (OSError, ValueError, AttributeError, TypeError):  # `kvtest doctor` tells what is wrong with it
        return None
    if name is None or name == profile.vm.hypervisor:
        return None
    return (
        f"{configuration} has the hypervisor {name}, and the profile {profile.name} finds the virtual machines of "
        f"{profile.vm.hypervisor}: tests that kill one, or reach its console or agent, fail\n"
        "  hint: a profile of your own says in [vm] how they are found (docs/runtimes.md)"
    )
