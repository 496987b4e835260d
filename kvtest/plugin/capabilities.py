# SPDX-License-Identifier: Apache-2.0
"""What a machine must be able to do for a test, and how to get it there."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

import pytest

from kvtest.errors import UnknownNameError, UsageError

# Each returns None where the capability is there, else what is missing and the cure.
Check = Callable[[pytest.Config], str | None]


def _kvm(config: pytest.Config) -> str | None:
    from kvtest.plugin.session import session_of
    from kvtest.vm import Accelerator

    decision = session_of(config).factory.accelerator
    if decision.accelerator is Accelerator.KVM:
        return None
    return f"guests run under {decision.accelerator}: {decision.reason}"


def _root(_config: pytest.Config) -> str | None:
    return None if os.geteuid() == 0 else "not root: run it with sudo"


def _vhost_vsock(_config: pytest.Config) -> str | None:
    from kvtest.doctor.device import reservation_problem

    device = "/dev/vhost-vsock"
    problem = reservation_problem(device)
    return None if problem is None else f"{device} {problem}: kvtest doctor says what mends it"


def _lab(_config: pytest.Config) -> str | None:
    from kvtest.host.kernel_log import WATCHED

    if WATCHED not in os.environ:  # which only a lab host has
        return "it interferes with everybody's guests, so it is for a host of its own: --host lab"
    if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
        return "it interferes with the guests of other workers: -n 0"
    return None


def _vhost_vsock_module(_config: pytest.Config) -> str | None:
    from kvtest.guest.inventory import modules

    return None if "vhost_vsock" in modules() else "vhost_vsock is not a module here, or not loaded"


def _vsock_namespaces(_config: pytest.Config) -> str | None:
    if os.path.exists("/proc/sys/net/vsock/ns_mode"):
        return None
    return f"vsock knows no network namespaces before Linux 7.0, and this is {platform.release()}"


def _runtime(config: pytest.Config) -> str | None:
    from kvtest.errors import KvtestError
    from kvtest.plugin.options import loaded
    from kvtest.runtime.installation import find
    from kvtest.runtime.preflight import chosen

    if chosen(loaded(config)):  # what the user has asked for is not left out: the fixture says what is missing
        return None
    try:
        find(loaded(config).settings)
    except KvtestError as error:
        return f"{error.message}: {error.hint}"
    return None


def _containerd(_config: pytest.Config) -> str | None:
    from kvtest.errors import KvtestError
    from kvtest.runtime.containerd_process import find_containerd

    try:
        find_containerd()
    except KvtestError as error:
        return f"{error.message}: {error.hint}"
    return None


def _agent_guest(config: pytest.Config) -> str | None:
    from kvtest.plugin.options import loaded
    from kvtest.runtime.agent_place import AgentPlace, agent_place

    place = agent_place(loaded(config).settings)
    if place is AgentPlace.SERVICE:
        return None
    return f"the agent is {place.value}, and nothing of kvtest's runs beside it"


def _feature(name: str) -> Check:
    def check(config: pytest.Config) -> str | None:
        from kvtest.plugin.session import session_of
        from kvtest.runtime.profile import load

        settings = session_of(config).settings
        profile = load(settings.runtime)
        return None if name in profile.features else f"{profile.name} does not have it, says its profile"

    return check


def _virtual_machine(config: pytest.Config) -> str | None:
    from kvtest.plugin.session import session_of
    from kvtest.runtime.profile import load

    profile = load(session_of(config).settings.runtime)
    return None if profile.vm is not None else f"{profile.name} has no virtual machines, says its profile"


def _agent(config: pytest.Config) -> str | None:
    from kvtest.plugin.session import session_of
    from kvtest.runtime.profile import load

    profile = load(session_of(config).settings.runtime)
    if profile.vm is not None and profile.vm.agent is not None:
        return None
    return f"{profile.name} has no agent that others can reach, says its profile"


def _debug_console(config: pytest.Config) -> str | None:
    from kvtest.plugin.session import session_of
    from kvtest.runtime.profile import load

    profile = load(session_of(config).settings.runtime)
    if profile.vm is not None and profile.vm.console is not None:
        return None
    return f"{profile.name} has no shell in the guest of a pod, says its profile"


_FEATURES = ("pause", "stats", "pids", "resize", "update", "oom", "group", "hooks", "init-on-host")
_CHECKS: dict[str, Check] = {
    "kvm": _kvm,
    "root": _root,
    "vhost-vsock": _vhost_vsock,
    "vhost-vsock-module": _vhost_vsock_module,
    "vsock-namespaces": _vsock_namespaces,
    "lab-alone": _lab,
    "runtime": _runtime,
    "containerd": _containerd,
    "agent-guest": _agent_guest,
    "runtime-vm": _virtual_machine,
    "runtime-agent": _agent,
    "runtime-console": _debug_console,
    **{f"runtime-{name}": _feature(name) for name in _FEATURES},
}


def names_of(item: pytest.Item) -> list[str]:
    """Return the capabilities that a test needs.

    Raises:
        UsageError: A marker has no name.
        UnknownNameError: There is no such capability.
    """
    names = []
    for mark in item.iter_markers("capability"):
        if not mark.args:
            raise UsageError("@pytest.mark.capability needs a name")
        for name in mark.args:
            if not isinstance(name, str) or name not in _CHECKS:
                raise UnknownNameError("capability", str(name), _CHECKS)
            names.append(name)
    return names


def missing(item: pytest.Item) -> str | None:
    """Return why a test cannot run here, with the cure, or ``None`` if it can."""
    for name in names_of(item):
        reason = _CHECKS[name](item.config)
        if reason is not None:
            return f"capability {name!r} is missing: {reason}"
    return None
