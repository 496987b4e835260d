# SPDX-License-Identifier: Apache-2.0
"""What happens when a pod is harmed from inside: its agent dies or hangs, its kernel panics, it is turned off.

The virtual machine may well go on, and nobody on the host has done anything to it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator

import pytest

from kvtest import Pod, Pods, requirement
from kvtest.census import Ledger
from kvtest.errors import NotOfferedError
from kvtest.runtime.console import Console
from kvtest.runtime.losses import everybody_learns_of_the_loss
from kvtest.runtime.neighbours import undisturbed
from kvtest.runtime.phases import FOREVER, PATIENCE, live_again, reach_all
from kvtest.runtime.under_way import every_call_ends

HARMS: dict[str, Callable[[Console], None]] = {
    "agent-killed": lambda console: console.signal_agent(signal.SIGKILL),
    "agent-terminated": lambda console: console.signal_agent(signal.SIGTERM),
    "agent-stopped": lambda console: console.signal_agent(signal.SIGSTOP),
    "panic": Console.panic,
    "power-off": Console.power_off,
}

pytestmark = pytest.mark.capability("runtime", "runtime-vm", "runtime-console")


@contextlib.contextmanager
def harmed(pod: Pod, harm: str) -> Iterator[None]:
    """Harm the guest of a pod from inside. The console stays open for the block: with it would go what it is to do."""
    with contextlib.ExitStack() as opened:
        try:
            console = opened.enter_context(pod.console(PATIENCE))
            HARMS[harm](console)
        except NotOfferedError as error:
            pytest.skip(error.message if error.hint is None else f"{error.message}: {error.hint}")
        yield


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param("agent-killed", marks=requirement("RUNTIME-VM-009")),
        pytest.param("agent-terminated", marks=requirement("RUNTIME-VM-009")),
        pytest.param("panic", marks=requirement("RUNTIME-VM-011")),
        pytest.param("power-off", marks=requirement("RUNTIME-VM-012")),
    ],
)
def test_everybody_learns_of_harm_done_inside(pods: Pods, harm: str) -> None:
    started = reach_all(pods, ("created", "exec", "paused"))
    with contextlib.ExitStack() as opened, everybody_learns_of_the_loss(started):
        for pod in started:
            opened.enter_context(harmed(pod, harm))


@requirement("RUNTIME-VM-010", "RUNTIME-VM-016")
def test_calls_under_way_end_with_an_agent_that_hangs(pod: Pod) -> None:
    """Its shim may end with it."""
    with contextlib.ExitStack() as opened, every_call_ends(pod, hung=True) as calls:
        opened.enter_context(harmed(pod, "agent-stopped"))
        calls.begin()


@requirement("RUNTIME-VM-013")
@pytest.mark.parametrize("harm", ["agent-killed", "panic", "power-off"])
def test_nothing_stays_of_what_was_harmed_inside(pod: Pod, census: Ledger, harm: str) -> None:
    container = pod.run(FOREVER)
    (machine,) = pod.machine
    pidfd = os.pidfd_open(machine)
    try:
        with harmed(pod, harm):
            assert container.wait(pod.profile.detection_bound).status == pod.profile.status_of_lost_vm
            ended, _, _ = select.select([pidfd], [], [], pod.profile.cleanup_bound)
            assert ended, "the virtual machine goes on"  # though there is still a shim that could have ended it
    finally:
        os.close(pidfd)
    assert container.delete().status == pod.profile.status_of_lost_vm
    pod.end(PATIENCE)
    census.assert_clean(within=pod.profile.cleanup_bound)


@requirement("RUNTIME-VM-014")
def test_the_id_of_what_was_harmed_inside_can_be_used_again(pod: Pod) -> None:
    container = pod.run(FOREVER)
    with harmed(pod, "agent-killed"):
        assert container.wait(pod.profile.detection_bound).status == pod.profile.status_of_lost_vm
    container.delete()
    live_again(pod, container.id)


@requirement("RUNTIME-VM-015")
@pytest.mark.parametrize("harm", ["agent-killed", "panic"])
def test_other_pods_go_on_when_one_is_harmed_inside(pod: Pod, shared_pod: Pod, harm: str) -> None:
    doomed = pod.run(FOREVER)
    with undisturbed(shared_pod), harmed(pod, harm):
        assert doomed.wait(pod.profile.detection_bound).status == pod.profile.status_of_lost_vm
