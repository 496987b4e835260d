# SPDX-License-Identifier: Apache-2.0
"""Lab hosts: a machine with a kernel of one's choice and the kernel's own vhost-vsock, in which kvtest runs.

A lab host is a clone of a template, as a guest is, and is controlled as one. kvtest and the templates of its guests
are on disks that are plugged in, so that nothing is installed, and no guest boots, in an emulated machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kvtest.accelerator import Accelerator
from kvtest.cache import Progress, silent
from kvtest.deadline import Deadline
from kvtest.errors import GuestError, HostError, HostLostError, KvtestError, UsageError
from kvtest.host import bundle, lab_guests
from kvtest.host.archive import unpack
from kvtest.host.arriving import ArrivingResults
from kvtest.host.host import Host
from kvtest.host.lab_machine import CACHE, SITE, LabMachine
from kvtest.host.relay import Relay
from kvtest.report.directory import JUNIT_FILE, RESULTS_FILE
from kvtest.settings import Settings
from kvtest.transport import Transport
from kvtest.vm.accelerator import MEMORY, on_another_boot

SCHEME = "lab"
_RESULTS = "/work/results"
_ARCHIVE = "/work/results.tar"
# Everything in a lab takes as much longer as an emulated machine in an emulated machine is slower.
_REQUEST_TIMEOUT = "120"


def kernel_of(host: str) -> str | None:
    """Return the kernel that a host's name asks for; ``None`` for the usual one.

    Args:
        host: What the user wrote, such as ``lab:6.12``.

    Raises:
        UsageError: It is no lab.
    """
    scheme, _, kernel = host.partition(":")
    if scheme != SCHEME:
        raise UsageError(f"{host!r} is no host", hint="lab, or lab: and the name of a kernel, such as lab:6.12")
    return kernel or None


class Lab(Host):
    """A lab host, up and ready to run kvtest.

    Args:
        name: What the user calls it.
        settings: The settings of the run; the guests in the lab have the same kernels and image.
        kernel: Name of its own kernel; the settings' first guest kernel if ``None``.
        artifacts: Gets its console and logs.
        agent: Whether guests with an agent are wanted too.
        progress: Told of the steps of making what it needs.

    Raises:
        KvtestError: It could not be made, or did not come up.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        kernel: str | None,
        artifacts: Path,
        progress: Progress = silent,
        *,
        agent: bool = False,
    ) -> None:
        self.name = name
        self._results = settings.results
        site = bundle.ensure(settings.cache, progress)
        guests = lab_guests.ensure(settings, kernel, site, artifacts, progress, agent=agent)
        self._machine = LabMachine(settings, kernel, site, guests.disk, artifacts, progress)
        self._guest = self._machine.guest
        self._accelerator = guests.accelerator
        try:
            if self._accelerator is Accelerator.KVM:
                self._use_kvm(guests.memory)
        except BaseException:
            self.close()
            raise

    def _use_kvm(self, memory: str) -> None:
        if not self._machine.kvm:
            raise HostError("the lab host has lost its KVM", hint=f"see {self._guest.vm.artifacts}")
        boot = self._guest.read_file("/proc/sys/kernel/random/boot_id").decode()
        # Guests have run under it, or their templates would not be there: it need not be tried again.
        self._guest.write_file(f"{CACHE}/{MEMORY}", on_another_boot(memory, boot).encode())

    def run(self, arguments: Sequence[str], said: Callable[[bytes], None]) -> int:
        """Run ``kvtest run`` in the lab; each result is here as soon as it is there. See :meth:`Host.run`.

        Every line that is said begins with the host's name.
        """
        command = ["-m", "kvtest", "run", *arguments, "--transport", str(Transport.VHOST_VSOCK), "-v"]
        command += ["--accelerator", self._accelerator, "--cache", CACHE, "--results", _RESULTS]
        command += ["--request-timeout", _REQUEST_TIMEOUT, "-n", "0"]
        name = f"{self.name}: ".encode()
        relay = Relay(self.name, ["--host", self.name], _RESULTS, self._results, f"{SITE[1:]}/kvtest/suites/")
        self._brought = 0
        with ArrivingResults(self._results) as results:
            try:
                process = self._machine.python(command)
                for _, data in process.output(Deadline(None)):
                    lines = list(relay.lines(data))
                    if lines:
                        self._bring(results, relay)
                    for line in lines:
                        said(name + line)
                if rest := relay.rest():
                    said(name + rest + b"\n")
                self._bring(results, relay)
            except KvtestError as error:
                raise self._lost(error) from error
        return process.code if process.code is not None else 128 + int(process.signal or 0)

    def _bring(self, results: ArrivingResults, relay: Relay) -> None:
        """Bring the lines of the results file that are there since the last time."""
        try:
            new = self._guest.read_file(f"{_RESULTS}/{RESULTS_FILE}", offset=self._brought)
        except GuestError:  # there is none yet
            return
        lines = new[: new.rfind(b"\n") + 1]
        self._brought += len(lines)
        if lines:
            results.take(relay.results(lines))

    def fetch(self, directory: Path) -> None:
        """Bring the artifacts of the run; its results are here. See :meth:`Host.fetch`."""
        try:
            if self._guest.run(["test", "-d", _RESULTS]).code != 0:
                return
            remove = f"rm -f {RESULTS_FILE} {JUNIT_FILE}"  # ours have the names and paths of this machine
            self._guest.run(["sh", "-c", f"cd {_RESULTS} && {remove} && tar -cf {_ARCHIVE} ."]).check()
            brought = self._guest.read_file(_ARCHIVE)
        except GuestError as error:
            raise HostError(f"the artifacts of {self.name} could not be brought: {error.message}") from error
        except KvtestError as error:
            raise self._lost(error) from error
        archive = directory / "lab.tar"
        try:
            archive.write_bytes(brought)
            unpack(archive, directory)
            archive.unlink()
        except OSError as error:
            raise HostError(f"cannot write artifacts to {directory}: {error.strerror}") from error

    def _lost(self, error: KvtestError) -> HostLostError:
        reason = self._guest.died or error.message
        return HostLostError(
            f"the lab host is lost: {reason}", hint=f"see {self._guest.vm.artifacts}, its console first"
        )

    def close(self) -> None:
        """End it."""
        self._machine.close()
