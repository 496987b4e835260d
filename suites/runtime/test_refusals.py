# SPDX-License-Identifier: Apache-2.0
"""What a shim refuses: what has happened already, what comes too early, and what is about nobody."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from kvtest import Pod, Status, requirement
from kvtest.errors import RPCError
from kvtest.rpc.status import Code
from kvtest.runtime import spec
from kvtest.runtime.profile import Feature
from kvtest.runtime.tasks import ShimTasks

PATIENCE = 10.0
FOREVER = ["sleep", "1000"]

pytestmark = pytest.mark.capability("runtime")


@requirement("RUNTIME-LIFE-003")
def test_a_running_container_is_not_deleted(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER)
    with pytest.raises(RPCError):
        container.delete()
    assert container.state() is Status.RUNNING
    assert container.output_of(["echo", "here"]) == b"here\n"


@requirement("RUNTIME-LIFE-007")
def test_what_has_happened_does_not_happen_again(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER)
    process = container.exec(FOREVER)
    for running in (container, process):
        with pytest.raises(RPCError):
            running.start()
    with pytest.raises(RPCError) as caught:
        container.exec(["true"], name=process.name, start=False)
    assert caught.value.code == Code.ALREADY_EXISTS
    for running in (container, process):
        assert running.state() is Status.RUNNING
    process.kill()
    waited = process.wait(PATIENCE)
    with pytest.raises(RPCError):
        process.kill(signal.SIGUSR1)  # no SIGKILL, which some let pass since CRI wants that
    with pytest.raises(RPCError):
        process.start()
    assert process.snapshot().exit == waited
    assert container.output_of(["echo", "here"]) == b"here\n"


def once_of_two(call: Callable[[], object]) -> None:
    """Have two clients make a call at the same time, of which one has to be refused."""
    both = Barrier(2)

    def ask() -> str:
        both.wait(PATIENCE)
        try:
            call()
        except RPCError as error:
            return error.message
        return ""

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask) for _ in range(2)]
        refusals = [refusal for refusal in (one.result(2 * PATIENCE) for one in asked) if refusal]
    assert len(refusals) == 1, f"{2 - len(refusals)} of two who asked at once were served: {refusals}"


@requirement("RUNTIME-LIFE-007")
def test_of_two_who_ask_at_once_one_is_served(shared_pod: Pod) -> None:
    container = shared_pod.create(FOREVER)
    tasks = shared_pod.tasks(container.id)
    once_of_two(lambda: tasks.start(container.id, "", PATIENCE))
    process = container.exec(FOREVER, start=False)
    once_of_two(lambda: tasks.start(container.id, process.name, PATIENCE))
    for running in (container, process):
        assert running.state() is Status.RUNNING
    assert container.output_of(["echo", "here"]) == b"here\n"
    process.kill()
    process.wait(PATIENCE)
    once_of_two(lambda: tasks.delete(container.id, process.name, PATIENCE))
    container.kill()
    container.wait(PATIENCE)
    container.delete()
    shared_pod.events.expect("TaskDelete", container.id, within=PATIENCE)
    assert len(shared_pod.events.of(container.id, "TaskExecStarted", process.name)) == 1
    assert len(shared_pod.events.of(container.id, "TaskStart")) == 1


@requirement("RUNTIME-LIFE-007")
@pytest.mark.parametrize("driver", ["direct"], indirect=True)
def test_an_id_in_use_is_not_used_again(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER)
    bundle = shared_pod.bundle(container.id)
    second = bundle.with_name(f"{bundle.name}-second")
    (second / "rootfs").mkdir(parents=True)
    shutil.copy(bundle / "config.json", second)
    tasks = shared_pod.tasks(container.id)
    assert isinstance(tasks, ShimTasks)
    with pytest.raises(RPCError):
        tasks.create(PATIENCE, id=container.id, bundle=str(second))
    assert container.state() is Status.RUNNING
    assert container.output_of(["echo", "here"]) == b"here\n"


@requirement("RUNTIME-LIFE-004")
def test_what_does_not_exist_is_not_found(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER)
    process = container.exec(["true"])
    process.wait(PATIENCE)
    process.delete()
    for call in ("state", "start", "kill", "delete", "wait"):
        with pytest.raises(RPCError) as caught:
            getattr(process, call)()
        assert caught.value.code == Code.NOT_FOUND
    with pytest.raises(RPCError):  # runc's shim says so without a status of its own
        process.close_io()
    assert container.state() is Status.RUNNING


@requirement("RUNTIME-LIFE-004")
@pytest.mark.parametrize("driver", ["direct"], indirect=True)
def test_a_container_that_does_not_exist_is_not_found(shared_pod: Pod) -> None:
    container = shared_pod.run(FOREVER)
    tasks, nobody = shared_pod.tasks(container.id), f"{container.id}-nobody"
    calls: dict[str, Callable[[], Any]] = {
        "Start": lambda: tasks.start(nobody, "", PATIENCE),
        "Exec": lambda: tasks.exec(nobody, "exec", spec.process(["true"]), container.streams, PATIENCE),
        "State": lambda: tasks.state(nobody, "", PATIENCE),
        "Wait": lambda: tasks.waiting(nobody, "", PATIENCE).result(PATIENCE),
        "Kill": lambda: tasks.kill(nobody, "", signal.SIGKILL, False, PATIENCE),
        "CloseIO": lambda: tasks.close_io(nobody, "", PATIENCE),
        "Delete": lambda: tasks.delete(nobody, "", PATIENCE),
    }
    offered: dict[Feature, dict[str, Callable[[], Any]]] = {
        Feature.PAUSE: {
            "Pause": lambda: tasks.pause(nobody, PATIENCE),
            "Resume": lambda: tasks.resume(nobody, PATIENCE),
        },
        Feature.STATS: {"Stats": lambda: tasks.stats(nobody, PATIENCE)},
        Feature.PIDS: {"Pids": lambda: tasks.pids(nobody, PATIENCE)},
        Feature.RESIZE: {"ResizePty": lambda: tasks.resize(nobody, "", 25, 80, PATIENCE)},
        Feature.UPDATE: {"Update": lambda: tasks.update(nobody, {}, PATIENCE)},
    }
    for feature in shared_pod.profile.features:
        calls |= offered.get(feature, {})
    codes = {name: _code_of(call) for name, call in calls.items()}
    assert {name: code for name, code in codes.items() if code != Code.NOT_FOUND} == {}
    assert container.state() is Status.RUNNING


def _code_of(call: Callable[[], Any]) -> int | None:
    """Return the status with which a call fails; ``None`` if it does not."""
    try:
        call()
    except RPCError as error:
        return error.code
    return None
