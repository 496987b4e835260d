# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at any moment: nothing is left of a run, and the next one passes.

``KILLS`` in the environment says how many moments are tried; the default is few enough for every change.
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from kvtest.deadline import Deadline
from kvtest.harness import GuestFactory
from kvtest.image import ImageCache
from kvtest.runtime import Driver
from kvtest.runtime.installation import root_is_mount_point
from kvtest.settings import Settings
from kvtest.vm.template_cache import template_cache
from tests.processes import children_of, wait_for_end, with_variable

KILLS = int(os.environ.get("KILLS", "3"))
VICTIMS = ("pytest", "controller", "worker")
# Seconds until nothing may be left of what was killed.
BOUND = 2.0
# From nothing, with a template to be made, to the end of the run.
LONGEST = 9.0
SUITE = """
import subprocess
import pytest
@pytest.mark.parametrize("number", range(6))
def test_x(guest, vsock, host, number):
    own = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    host.run(["true"])
    process = host.start_process(["sh", "-c", "sleep 1000 & sleep 1000"])
    assert guest.run(["true"]).code == 0
    own.kill()
    own.wait()
"""


POD_SUITE = """
from pathlib import Path
import pytest
@pytest.mark.capability("runtime")
def test_x(pods):
    pod = pods.start()
    pod.run(["sleep", "1000"])
    Path("pods").open("w").write(f"{pod.id} {pod.address}")
    while True:
        pod.events.expect("TaskExit", pod.id, within=1000)
"""


class Run:
    """A run of a small suite in directories of its own, all of whose processes can be told.

    Args:
        base: The directories.
        workers: How many workers.
        images: Images that it need not build.
        cache: Its cache, if it has none of its own.
        suite: Its tests.
        options: Further options of the run.
    """

    def __init__(
        self,
        base: Path,
        workers: int,
        images: Iterable[Path] = (),
        cache: Path | None = None,
        suite: str = SUITE,
        options: Sequence[str] = (),
    ) -> None:
        self.base = base
        self.cache = cache or base / "cache"
        for image in images:
            link = self.cache / "images" / image.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(image)
        (base / "test_small.py").write_text(suite)
        self.mark = ("MARK_OF_A_TEST", uuid.uuid4().hex)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("KVTEST_", "PYTEST"))}
        with (base / "said").open("wb") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "kvtest", "run", "test_small.py", "-n", str(workers)),
                    *(f"--cache={self.cache}", f"--run-directory={base}/run", f"--results={base}/results"),
                    *options,
                ],
                cwd=base,
                env={**environment, self.mark[0]: self.mark[1]},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def kill(self, victim: str, moment: float) -> bool:
        """Kill one of its processes, and wait until the run has ended.

        Args:
            victim: Which one, of ``VICTIMS``; the controller as long as there is no worker.
            moment: Seconds from now.

        Returns:
            Whether it was killed: not if the run had ended before.
        """
        ended = os.pidfd_open(self.process.pid)
        # The moment is what is tested: a deadline that nothing is expected to come before.
        select.select([ended], [], [], moment)
        os.close(ended)
        target = self.process.pid
        if victim == "worker":
            target = next((pid for pid in children_of(self.process.pid) if _is_worker(pid)), target)
        try:
            os.kill(target, signal.SIGKILL)
            killed = self.process.poll() is None or self.process.returncode == -signal.SIGKILL
        except ProcessLookupError:
            killed = False
        self.process.wait(timeout=60)  # a controller goes on without its worker
        return killed

    def processes(self) -> list[int]:
        return with_variable(*self.mark)

    def left(self, deadline: Deadline) -> list[str]:
        """Return what stays of a run besides its results and what it has put into a cache of its own whole.

        Args:
            deadline: When its processes have to have ended.
        """
        while pidfds := [pidfd for pid in self.processes() if (pidfd := _open(pid)) is not None]:
            if not wait_for_end(pidfds, deadline):
                break
        own = self.base / "cache"
        templates = template_cache(own).directory
        places = (self.base.glob("run/*"), own.glob("*/.building-*"), templates.glob(".building-*"))
        return [f"process {pid}" for pid in self.processes()] + [str(path) for place in places for path in place]


@pytest.fixture
def base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are too long for sockets
        yield Path(directory)
        templates = template_cache(Path(directory) / "cache").directory
        subprocess.run(["rm", "-rf", str(templates)], check=True)


@pytest.fixture(scope="module")
def accelerator(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An option, so that no run tries what this machine has: most would be killed in that."""
    factory = GuestFactory(settings, tmp_path_factory.mktemp("artifacts"))
    return f"--accelerator={factory.accelerator.accelerator}"


@pytest.fixture(scope="module")
def built_images(settings: Settings) -> Sequence[Path]:
    """The image of the settings."""
    image = ImageCache(settings.cache, settings.mirror).ensure(settings.kernel, settings.guest_image)
    return (settings.cache / "images" / image.name,)


@pytest.mark.parametrize("number", range(KILLS))
def test_nothing_is_left_and_the_next_run_passes(
    built_images: Sequence[Path],
    accelerator: str,
    base: Path,
    number: int,
    record_property: Callable[[str, object], None],
) -> None:
    victim = VICTIMS[number % len(VICTIMS)]
    moment = random.Random(number).uniform(0.0, LONGEST)
    # One in three begins with nothing at all, each time another victim's.
    images = () if number // len(VICTIMS) % 3 == 2 - number % 3 else built_images
    workers, options = 0 if victim == "pytest" else 2, [accelerator]
    while not (run := Run(base, workers, images, options=options)).kill(victim, moment):
        moment /= 2  # it had ended before: then this run had everything from the one before, and is shorter
    patience = Deadline(BOUND)
    assert run.left(patience) == [], f"{victim} killed after {moment:.2f} s"
    record_property("gone_after", round(patience.elapsed, 3))

    again = Run(base, 2, images, options=options)
    assert again.process.wait(timeout=120) == 0, (base / "said").read_text()
    assert again.left(Deadline(BOUND)) == []


@pytest.mark.skipif(
    os.geteuid() != 0 or not root_is_mount_point(), reason="not root, or in a chroot: run it with sudo, outside"
)
@pytest.mark.parametrize(
    ("victim", "runtime", "driver"),
    [
        ("pytest", "reference", Driver.DIRECT),
        ("pytest", "reference", Driver.CONTAINERD),
        ("worker", "runc", Driver.CONTAINERD),
        pytest.param("worker", "runc", Driver.DIRECT, marks=pytest.mark.thorough),
        pytest.param("pytest", "runc", Driver.DIRECT, marks=pytest.mark.thorough),
        pytest.param("pytest", "runc", Driver.CONTAINERD, marks=pytest.mark.thorough),
    ],
)
def test_nothing_is_left_of_a_pod(settings: Settings, base: Path, victim: str, runtime: str, driver: Driver) -> None:
    os.mkfifo(base / "pods")
    options = (f"--runtime={runtime}", "-k", driver)
    run = Run(base, 2 if victim == "worker" else 0, cache=settings.cache, suite=POD_SUITE, options=options)
    with open(os.open(base / "pods", os.O_RDONLY | os.O_NONBLOCK), "rb", 0) as pods:
        assert select.select([pods], [], [], 300)[0], (base / "said").read_text()
        pod, address = pods.read().decode().split()
    cgroups = list(Path("/sys/fs/cgroup").rglob(f"{pod}*"))
    assert cgroups or runtime != "runc", "the container had no cgroup that could be left"
    elsewhere = [Path(address), *([Path(f"/run/containerd/runc/kvtest/{pod}")] if runtime == "runc" else [])]
    assert all(path.exists() for path in elsewhere), "the runtime keeps it somewhere else"
    assert run.kill(victim, 0.0)
    deadline = Deadline(BOUND)
    assert run.left(deadline) == []
    assert [path for path in (*cgroups, *elsewhere) if path.exists()] == []
    assert str(base) not in Path("/proc/self/mountinfo").read_text()


def _is_worker(pid: int) -> bool:
    return b"execnet" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _open(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
