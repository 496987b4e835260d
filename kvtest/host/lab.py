# SPDX-License-Identifier: Apache-2.0
"""Lab hosts: a machine with a kernel of one's choice and the kernel's own vhost-vsock, in which kvtest runs.

A lab host is a clone of a template, as a guest is, and is controlled as one. kvtest and the templates of its guests
are on disks that are plugged in, so that nothing is installed, and no guest boots, in an emulated machine.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from kvtest.accelerator import Accelerator
from kvtest.cache import Progress, silent
from kvtest.conformance import Ring
from kvtest.control import Process
from kvtest.deadline import Deadline
from kvtest.errors import GuestError, HostError, HostLostError, KvtestError, UsageError
from kvtest.harness import GuestFactory
from kvtest.host import bundle, lab_guests
from kvtest.host.archive import unpack
from kvtest.host.arriving import ArrivingResults
from kvtest.host.evidence import of_failed
from kvtest.host.heartbeat import Heartbeat
from kvtest.host.host import Host
from kvtest.host.interrupts import Interrupts
from kvtest.host.lab_machine import CACHE, SITE, LabMachine
from kvtest.host.link import SILENCE_SECONDS
from kvtest.host.parcels import Parcel, packed
from kvtest.host.relay import Relay
from kvtest.report import Results, failures, summary_lines
from kvtest.report.directory import JUNIT_FILE, RESULTS_FILE
from kvtest.settings import Settings
from kvtest.transport import Transport
from kvtest.vm import State
from kvtest.vm.accelerator import MEMORY, on_another_boot
from kvtest.vm.diagnosis import with_console

SCHEME = "lab"
#: The directory there that keeps what is brought.
BASE = "/work"
_BROUGHT = "/work/brought.tar"
_RESULTS = "/work/results"
_ARCHIVE = "/work/results.tar"
_FETCHING_SECONDS = 300.0
_BEGINNING_SECONDS = 60.0


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


class _SilentError(HostLostError):
    """The lab does not answer any more, and its machine has not ended by itself."""


class Lab(Host):
    """A lab host, up and ready to run kvtest.

    Args:
        name: What the user calls it.
        settings: The settings of the run; the guests in the lab have the same kernels and image.
        kernel: Name of its own kernel; the settings' first guest kernel if ``None``.
        artifacts: Gets its console and logs.
        rings: The rings that it is to run.
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
        rings: Collection[Ring] = (Ring.TRANSPORT,),
    ) -> None:
        self.name = name
        self._results = settings.results
        image = GuestFactory(settings, artifacts, progress=progress).image(kernel, settings.lab_image)
        site = bundle.ensure(settings.cache, image, progress)
        self._guests = lab_guests.ensure(settings, kernel, site, artifacts, progress, rings=rings)
        #: Seconds without a sign of life after which it is taken for lost.
        self.silence = 2 * SILENCE_SECONDS
        self._parcels: tuple[Parcel, ...] = ()
        self._process: Process | None = None
        self._begun = threading.Event()
        self._clone = functools.partial(
            LabMachine, settings, kernel, site, self._guests.disk, artifacts, progress, images=self._guests.images
        )
        self._open("lab")

    def _open(self, label: str) -> None:
        self._machine = self._clone(label=label)
        self._guest = self._machine.guest
        try:
            if self._guests.accelerator is Accelerator.KVM:
                self._use_kvm(self._guests.memory)
        except BaseException:
            self.close()
            raise

    def bring(self, parcels: Sequence[Parcel]) -> None:
        """Bring what is the user's own, below :data:`BASE`.

        Args:
            parcels: What it is.

        Raises:
            HostError: It cannot be read here, or there is no room for it.
        """
        self._parcels = tuple(parcels)
        if not parcels:
            return
        try:
            self._guest.write_file(_BROUGHT, packed(parcels), deadline=_FETCHING_SECONDS)
            self._guest.run(["tar", "-xf", _BROUGHT, "-C", BASE], deadline=_FETCHING_SECONDS).check()
            self._guest.run(["rm", _BROUGHT]).check()
        except GuestError as error:
            raise HostError(f"what is your own could not be brought to {self.name}: {error.message}") from error

    def _use_kvm(self, memory: str) -> None:
        if not self._machine.kvm:
            raise HostError("the lab host has lost its KVM", hint=f"see {self._guest.vm.artifacts}")
        boot = self._guest.read_file("/proc/sys/kernel/random/boot_id").decode()
        # Guests have run under it, or their templates would not be there: it need not be tried again.
        self._guest.write_file(f"{CACHE}/{MEMORY}", on_another_boot(memory, boot).encode())

    def run(self, what: Sequence[str], options: Sequence[str], said: Callable[[bytes], None]) -> int:
        """Run ``kvtest run`` in the lab; each result is here as soon as it is there. See :meth:`Host.run`.

        Every line that is said begins with the host's name. A lab that does not answer any more, and has not ended, is
        cloned again, once, and runs what has no result yet; the results say so.
        """
        if self._guests.problem is not None:
            cure = "several times as slow; kvtest image prune has its KVM tried again"
            said(f"{self.name}: its guests are emulated ({cure}): {self._guests.problem}\n".encode())
        with ArrivingResults(self._results) as results, Interrupts(self._interrupt) as self.interrupts:
            try:
                return self._attempt(what, options, said, results)
            except _SilentError as error:
                left = self._left(what)
                if not left or self.interrupts.came:
                    raise
                self._go_on(error, results, said)
            status = self._attempt(left, options, said, results)
        everything = Results.read(self._results / RESULTS_FILE)
        for line in summary_lines(everything):
            said(f"{self.name}: {line}\n".encode())
        return 1 if failures(everything) else status

    def _interrupt(self) -> None:
        self._begun.wait(_BEGINNING_SECONDS)  # it may just be on its way
        if self._process is not None:
            self._process.kill(signal.SIGINT)

    def _left(self, what: Sequence[str]) -> Sequence[str]:
        """Return what of a run has no result yet, by the names that it has there."""
        if not self._lines:
            return what
        results = Results.parse(self._lines, Path(_RESULTS, RESULTS_FILE))
        return [f"{results.run.root}/{test}" for test in results.missing]

    def _go_on(self, error: _SilentError, results: ArrivingResults, said: Callable[[bytes], None]) -> None:
        """Clone the lab again, for what is left of a run."""
        so_far = results.go_on({"cloned_again": error.message})
        ended = 0 if so_far is None else len(so_far.tests)
        said(f"{self.name}: {error.message}; it is cloned again, {ended} tests have their results\n".encode())
        self.close()
        try:
            self._open("lab-again")
            self.bring(self._parcels)
        except KvtestError as again:
            message = f"{error.message}; it could not be cloned again: {again.message}"
            raise HostLostError(message, hint=again.hint or error.hint) from again

    def _attempt(
        self, what: Sequence[str], options: Sequence[str], said: Callable[[bytes], None], results: ArrivingResults
    ) -> int:
        told = [f"--transport={Transport.VHOST_VSOCK}", f"--accelerator={self._guests.accelerator}"]
        command = ["-m", "kvtest", "run", *what, *options, *told]
        command += [f"--cache={CACHE}", f"--results={_RESULTS}", "-v"]
        name = f"{self.name}: ".encode()
        places = {f"{SITE[1:]}/kvtest/suites": "suites"}
        places |= {parcel.tree.place: os.path.relpath(parcel.root) for parcel in self._parcels}
        relay = Relay(self.name, ["--host", self.name], _RESULTS, self._results, places, told)
        self._lines = b""
        with Heartbeat(self._guest, self.silence) as heartbeat:
            try:
                process = self._process = self._machine.python(command)
                self._begun.set()
                for _, data in process.output(Deadline(None)):
                    lines = list(relay.lines(data))
                    if lines:
                        self._bring(results, relay)
                    for line in lines:
                        said(name + line)
                if rest := relay.rest():
                    said(name + rest + b"\n")
                self._bring(results, relay)
            except HostError:  # of this machine, which has no room for results
                raise
            except KvtestError as error:
                raise self._lost(error, heartbeat.lost) from error
        return process.code if process.code is not None else 128 + int(process.signal or 0)

    def _bring(self, results: ArrivingResults, relay: Relay) -> None:
        """Bring the lines of the results file that are there since the last time."""
        try:
            new = self._guest.read_file(f"{_RESULTS}/{RESULTS_FILE}", offset=len(self._lines))
        except GuestError:  # there is none yet
            return
        lines = new[: new.rfind(b"\n") + 1]
        self._lines += lines
        if not lines:
            return
        results.take(relay.results(lines))
        for artifacts in of_failed(lines, Path(_RESULTS)):
            self._bring_evidence(artifacts)

    def _bring_evidence(self, artifacts: Path) -> None:
        """Bring the artifacts of a test that has failed: the lab may not last until the others are fetched."""
        process = self._machine.python(["-m", "kvtest.host.evidence", _RESULTS, str(artifacts)])
        packed = b"".join(data for _, data in process.output(Deadline(_FETCHING_SECONDS)))
        if process.code == 0:  # else they come with the others
            _unpack(packed, self._results)

    def fetch(self, directory: Path) -> None:
        """Bring the artifacts of the run; its results are here. See :meth:`Host.fetch`."""
        try:
            if self._guest.run(["test", "-d", _RESULTS]).code != 0:
                return
            remove = f"rm -f {RESULTS_FILE} {JUNIT_FILE}"  # ours have the names and paths of this machine
            self._guest.run(
                ["sh", "-c", f"cd {_RESULTS} && {remove} && tar -cf {_ARCHIVE} ."], deadline=_FETCHING_SECONDS
            ).check()
            packed = self._guest.read_file(_ARCHIVE, _FETCHING_SECONDS)
        except GuestError as error:
            raise HostError(f"the artifacts of {self.name} could not be brought: {error.message}") from error
        except KvtestError as error:
            raise self._lost(error) from error
        _unpack(packed, directory)

    def _lost(self, error: KvtestError, silent: str | None = None) -> HostLostError:
        hint = with_console(f"see {self._guest.vm.artifacts}", self._guest.vm.console)
        reason = (self._guest.died or "").removeprefix("the guest ")  # which it is to us, and to nobody else
        if silent is not None or (not reason and self._guest.vm.state is not State.DEAD):
            return _SilentError(f"the lab host is lost: {silent or error.message}", hint=hint)
        return HostLostError(f"the lab host is lost: {reason or error.message}", hint=hint)

    def close(self) -> None:
        """End it."""
        self._machine.close()


def _unpack(packed: bytes, directory: Path) -> None:
    """Unpack an archive of artifacts into the results directory.

    Raises:
        HostError: There is no room for it, or something in it leads out of the directory.
    """
    archive = directory / "lab.tar"
    try:
        archive.write_bytes(packed)
        unpack(archive, directory)
        archive.unlink()
    except OSError as error:
        raise HostError(f"cannot write artifacts to {directory}: {error.strerror}") from error
