# SPDX-License-Identifier: Apache-2.0
"""Machines with an agent and nothing of ours in them: booted, and known by what their agent answers."""

from __future__ import annotations

import attrs

from kvtest.cache import Progress, silent
from kvtest.deadline import Deadline
from kvtest.errors import BootError, DeadlineExceededError, RPCError
from kvtest.harness import GuestFactory, GuestRequest, RunningMachine
from kvtest.harness.factory import AGENT_PORTS
from kvtest.harness.running import HEALTH_SECONDS
from kvtest.image.recipe import AGENT_RECIPE
from kvtest.image.whole_guest import WholeGuest
from kvtest.rpc.client import Client
from kvtest.runtime.agent import Agent, AgentEndpoint
from kvtest.runtime.agent_address import SerialAddress, in_machine
from kvtest.runtime.agent_dial import dial
from kvtest.runtime.agent_place import AgentPlace, agent_place
from kvtest.runtime.agent_root import provide_root
from kvtest.transport import Transport
from kvtest.vm import VM, Configuration
from kvtest.vm.configuration import Disk

PORT = 1024
_ENOUGH_FAILURES = 2  # each takes a whole boot, and there may be hundreds of tests


class AgentMachine(RunningMachine):
    """A machine whose agent answers.

    Args:
        vm: The machine, ready.
        endpoint: Its agent.
        release: The release of its kernel, if it is known.
    """

    inhabitant = "agent"

    def __init__(self, vm: VM, endpoint: AgentEndpoint, release: str) -> None:
        super().__init__(vm, release)
        self.endpoint = endpoint

    def over(self, transport: Transport) -> AgentEndpoint:
        """Return the agent, dialled over a transport."""
        if transport is Transport.VIRTIO_SERIAL:
            return attrs.evolve(self.endpoint, address=SerialAddress(str(self.serial_ports[0].path)))
        return self.endpoint

    def state(self, patience: float) -> str:
        """Return what the agent says of its health; see :meth:`RunningMachine.state`."""
        deadline = Deadline(patience)
        with self.endpoint.connect(deadline) as agent:
            return agent.check(deadline)

    def check(self) -> None:
        """Ask the agent for an answer."""
        self.state(HEALTH_SECONDS)

    @property
    def connection_lost(self) -> bool:
        """Whether it is known that nobody answers any more: a machine without a channel of ours does not tell."""
        return False

    def tidy(self) -> None:
        """Leave it to whoever has created containers: nothing else was started in it."""


class AgentMachines:
    """Makes machines with the agent under test as the settings say: as init in our image, or a whole guest.

    Args:
        factory: Makes machines.
        progress: Told what is checked.
    """

    def __init__(self, factory: GuestFactory, progress: Progress = silent) -> None:
        self._factory = factory
        self._settings = factory.settings
        self._progress = progress
        self._whole: WholeGuest | None = None
        self._failures: dict[Configuration, list[BootError]] = {}

    def prepare(self) -> None:
        """Look at the program of the agent, or once at a whole guest's files and what its agent needs from its kernel.

        Raises:
            RecipeError: One of them cannot be used, or the kernel has not what the agent needs.
        """
        self._factory.look_at_agent()
        if self._whole is not None or agent_place(self._settings) is not AgentPlace.WHOLE:
            return
        settings = self._settings
        assert settings.agent_kernel is not None
        whole = WholeGuest.read(settings.agent_kernel, settings.agent_initrd, settings.agent_image, settings.agent_disk)
        with self._progress(whole.checked()):
            self._whole = whole

    def try_out(self) -> None:
        """Boot the agent once, so that one that does not come up is told of once, and not by every test.

        Raises:
            BootError: It does not come up.
        """
        self.prepare()
        request = GuestRequest(image=AGENT_RECIPE, serial_ports=AGENT_PORTS)
        over = next((one for one in self._settings.transport if one is not Transport.VIRTIO_SERIAL), None)
        with self._progress("a guest with the agent under test"):
            self.boot(self.configuration(request, over or Transport.VHOST_USER_VSOCK)).close()

    def configuration(self, request: GuestRequest, over: Transport) -> Configuration:
        """Return what a machine is made of.

        Args:
            request: What was asked for; a whole guest is as it is, but for memory and processors.
            over: Its vsock device.

        Raises:
            RecipeError: The files of a whole guest cannot be used.
        """
        self.prepare()
        if self._whole is None:
            found = self._factory.configuration(request, over=over)
            return attrs.evolve(found, controlled=False, transports=found.transports | {over})
        arguments = (*request.kernel_arguments, *self._whole.kernel_arguments())
        found = self._factory.around(self._whole.kernel.path, self._whole.initrd, request, over=over)
        return attrs.evolve(
            found,
            controlled=False,
            disk=None if self._whole.disk is None else Disk(self._whole.disk.path, self._whole.kind),
            kernel_arguments=arguments,
            transports=frozenset({over}),  # Kata's agents since 2.0 listen on nothing else
        )

    def boot(self, configuration: Configuration) -> AgentMachine:
        """Boot a machine and wait until its agent answers.

        Args:
            configuration: What it is made of.

        Raises:
            BootError: It never did. When that has happened twice running, whoever asks again is told so at once.
        """
        failures = self._failures.setdefault(configuration, [])
        if len(failures) >= _ENOUGH_FAILURES:
            raise failures[0]
        vm = self._factory.machine(configuration)
        try:
            endpoint = _boot(vm, self._settings.request_timeout)
        except BootError as error:
            failures.append(error)
            raise
        failures.clear()
        try:
            endpoint = endpoint.in_its_version()
            if self._whole is not None:
                endpoint = provide_root(endpoint)
        except BaseException as error:
            vm.close()
            if isinstance(error, RPCError):
                message = f"{vm.name} has booted, and its agent does not give what tests build on: {error.message}"
                raise BootError(message, hint=f"see {vm.artifacts}") from error
            raise
        release = self._factory.image_release(configuration) if self._whole is None else self._whole.kernel.release
        return AgentMachine(vm, endpoint, release or "unknown")


def _boot(vm: VM, timeout: float) -> AgentEndpoint:
    """Boot a machine; return where its agent is."""
    found: list[AgentEndpoint] = []

    def answered(vm: VM, deadline: Deadline) -> None:
        address = in_machine(vm, PORT)
        endpoint = AgentEndpoint(address, timeout)
        stream = dial(address, deadline, _End(vm))
        vm.note("agent has taken a connection")
        with Agent(endpoint, Client(stream, f"agent at {address}")) as agent:
            agent.check(deadline)
        vm.note("agent answered")
        found.append(endpoint)

    vm.boot(answered)
    return found[0]


class _End:
    """The end of a machine, to be waited for."""

    def __init__(self, vm: VM) -> None:
        self._vm = vm

    def wait(self, timeout: float | None) -> bool:
        """Wait until QEMU has ended, and return whether it has."""
        try:
            self._vm.process.wait(Deadline(timeout))
        except DeadlineExceededError:
            return False
        return True
