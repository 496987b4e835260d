# SPDX-License-Identifier: Apache-2.0
"""From settings to machines: finds QEMU, builds the image, decides the accelerator; each once."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import attrs

from kvtest.cache import Progress, silent
from kvtest.errors import TemplateRemovedError
from kvtest.harness.guest import Guest
from kvtest.harness.request import GuestRequest
from kvtest.host.memory import available_memory
from kvtest.image import Image, ImageCache, brought
from kvtest.image.agent import find_agent
from kvtest.image.recipe import AGENT_RECIPE
from kvtest.ownership import RunDirectory
from kvtest.settings import Settings
from kvtest.start import AgentStart, GuestStart
from kvtest.transport import VSOCKS, Transport
from kvtest.vm import QEMU, VM, Configuration, State
from kvtest.vm.accelerator import Decision, decide
from kvtest.vm.configuration import ColdBoot
from kvtest.vm.template import Template
from kvtest.vm.template_cache import template_cache
from kvtest.vsock.reservation import ReservedCid

#: The virtio-serial ports of such guests.
AGENT_PORTS = ("agent.channel.0",)
_FIRST_CID = 3  # lower ones are reserved (vsock(7))
_ROOM = 1 << 30  # bytes of memory that stay free beside a guest that nobody has asked for yet


class GuestFactory:
    """Makes guests as the settings say.

    Args:
        settings: The settings.
        artifacts: Directory that gets one directory per machine.
        label: Prefix of the machines' names; tells those of parallel workers apart.
        progress: Told of the steps of building an image.
    """

    def __init__(self, settings: Settings, artifacts: Path, label: str = "guest", progress: Progress = silent) -> None:
        self.settings = settings
        self.artifacts = artifacts
        self._label = label
        self._progress = progress
        self._numbers = itertools.count(1)
        self._cids = itertools.count(_FIRST_CID)
        self._images: dict[tuple[str, str], Image] = {}
        self._templates: dict[Configuration, Template] = {}
        self._decision: Decision | None = None
        self._agent_runs = False  # as far as its file tells
        self._ahead: tuple[Configuration, VM] | None = None

    def with_our_agent(self) -> GuestFactory:
        """Return one whose guests have the reference agent beside our control daemon, whichever is under test."""
        settings = attrs.evolve(self.settings, agent=None, agent_start=None)
        return GuestFactory(settings, self.artifacts, self._label, self._progress)

    @property
    def qemu(self) -> QEMU:
        """The QEMU in use."""
        return QEMU.find(self.settings.qemu)

    def image(self, kernel: str | None = None, recipe: str | None = None) -> Image:
        """Return the guest image with a kernel, built if need be.

        Args:
            kernel: Its name; the settings' if ``None``.
            recipe: Name of the root file system's recipe; the settings' if ``None``.
        """
        name = (kernel or self.settings.kernel, recipe or self.settings.guest_image)
        if name not in self._images or not self._images[name].initramfs.exists():  # somebody may have removed it
            cache = ImageCache(self.settings.cache, self.settings.mirror)
            ours = recipe == AGENT_RECIPE
            agent, start = (self.settings.agent, self.settings.agent_start) if ours else (None, None)
            self._images[name] = cache.ensure(*name, self._progress, agent=agent, start=start)
        return self._images[name]

    def image_release(self, configuration: Configuration) -> str:
        """Return the release of the kernel of one of our images; nothing if it is not ours."""
        return next((image.release for image in self._images.values() if image.kernel == configuration.kernel), "")

    def knows_image(self, kernel: str | None = None, recipe: str | None = None) -> bool:
        """Whether :meth:`image` would return what it has returned before."""
        return (kernel or self.settings.kernel, recipe or self.settings.guest_image) in self._images

    @property
    def accelerator(self) -> Decision:
        """Which accelerator is used, and why."""
        if self._decision is None:
            with self._progress("choosing an accelerator"):
                settings = self.settings
                self._decision = decide(
                    settings.accelerator, self.qemu, self.image().kernel, settings.cache, settings.boot_timeout
                )
        return self._decision

    def prepare(self) -> None:
        """Do everything that needs doing once, so that whatever is wrong with this machine is said at once."""
        self.look_at_agent()
        RunDirectory(self.settings.run_directory).close()
        if Transport.VHOST_VSOCK in self.settings.transport:
            ReservedCid().close()
        if self.settings.guest_start is GuestStart.CLONE:
            for kernel in self.settings.guest_kernel:
                self.template(self.configuration(GuestRequest(kernel=kernel)))
            agent = self.settings.agent is not None and self.settings.agent_start is not AgentStart.INIT
            if agent:  # one that does not come up is told of once, and not by every test
                self.template(self.configuration(GuestRequest(image=AGENT_RECIPE, serial_ports=AGENT_PORTS)))
        else:
            _ = self.accelerator

    def look_at_agent(self) -> None:
        """Look at the program of the agent under test: one that runs in no guest is refused before anything is built.

        Raises:
            RecipeError: It does not; the message says why.
        """
        settings = self.settings
        if settings.agent is not None and not self._agent_runs:
            if not brought.name_of(settings.kernel, AGENT_RECIPE, settings.agent, settings.agent_start):
                find_agent(str(settings.agent))
            self._agent_runs = True

    def configuration(
        self, request: GuestRequest, *, vsock: bool = True, over: Transport = Transport.VHOST_USER_VSOCK
    ) -> Configuration:
        """Return what a requested machine is made of.

        Args:
            request: What was asked for.
            vsock: Whether it has a vsock device, if the request does not say.
            over: Which vsock device.
        """
        image = self.image(request.kernel, request.image)
        found = self.around(image.kernel, image.initramfs, request, vsock=vsock, over=over)
        return attrs.evolve(found, image=image.digest)

    def around(
        self,
        kernel: Path,
        initramfs: Path | None,
        request: GuestRequest,
        *,
        vsock: bool = True,
        over: Transport = Transport.VHOST_USER_VSOCK,
    ) -> Configuration:
        """Return what a requested machine is made of, with files that need not be ours.

        Args:
            kernel: The kernel image.
            initramfs: The root file system, if it is not on a disk.
            request: What was asked for besides.
            vsock: See :meth:`configuration`.
            over: See :meth:`configuration`.
        """
        transports = set(self.settings.transport) - VSOCKS
        if over in self.settings.transport and (vsock if request.vsock is None else request.vsock):
            transports.add(over)
        return Configuration(
            qemu=self.qemu,
            accelerator=self.accelerator.accelerator,
            kernel=kernel,
            initramfs=initramfs,
            memory=request.memory or self.settings.memory,
            cpus=request.cpus or self.settings.cpus,
            transports=frozenset(transports),
            serial_ports=request.serial_ports,
            kernel_arguments=request.kernel_arguments,
            boot_timeout=self.settings.boot_timeout,
            request_timeout=self.settings.request_timeout,
            run_directory=self.settings.run_directory,
        )

    def template(self, configuration: Configuration) -> Template:
        """Return the template of a kind of machine, made if need be.

        Raises:
            BootError: Its guest did not become ready.
        """
        if configuration not in self._templates:
            templates = template_cache(self.settings.cache, configuration.memory)
            self._templates[configuration] = templates.ensure(configuration, self.artifacts, self._progress)
        return self._templates[configuration]

    def start(self, configuration: Configuration, *, cold: bool = False) -> Guest:
        """Start a guest: a clone of a template, unless it or the settings want one that boots.

        Raises:
            BootError: It did not become ready.
        """
        if cold or self.settings.guest_start is GuestStart.BOOT:
            return self.boot(configuration)
        vm = self._take_ahead(configuration) or self._launch(configuration)
        vm.boot()
        return Guest(vm)

    def start_ahead(self, configuration: Configuration) -> None:
        """Start the QEMU of a guest that is likely to be wanted next, and do not wait for it.

        It is the next :meth:`start` of the same kind that gets it; any other ends it. Nothing is started where memory
        is scarce, or where a template would have to be made.

        Args:
            configuration: What it is made of.
        """
        self.drop_ahead()
        template = self._templates.get(configuration)
        if template is not None and available_memory() >= (configuration.memory << 20) + _ROOM:
            vm = self._vm(configuration, template)
            with contextlib.suppress(TemplateRemovedError):  # whoever wants the guest has the template made again
                vm.launch()
                self._ahead = configuration, vm

    def drop_ahead(self) -> None:
        """End the guest that was started ahead, if there is one."""
        if self._ahead is not None:
            (_, vm), self._ahead = self._ahead, None
            vm.close()

    def _take_ahead(self, configuration: Configuration) -> VM | None:
        if self._ahead is None or self._ahead[0] != configuration or self._ahead[1].state is not State.BOOTING:
            self.drop_ahead()
            return None
        (_, vm), self._ahead = self._ahead, None
        vm.note("wanted, after it was started ahead")
        return vm

    def boot(self, configuration: Configuration) -> Guest:
        """Boot a machine.

        Raises:
            BootError: It did not become ready.
        """
        vm = self.machine(configuration)
        vm.boot()
        return Guest(vm)

    def machine(self, configuration: Configuration) -> VM:
        """Return a machine that is about to boot."""
        return self._vm(configuration, ColdBoot())

    def _launch(self, configuration: Configuration) -> VM:
        while True:
            vm = self._vm(configuration, self.template(configuration))
            try:
                vm.launch()
            except TemplateRemovedError:  # by somebody, before this machine held it
                del self._templates[configuration]
            else:
                return vm

    def _vm(self, configuration: Configuration, start: ColdBoot | Template) -> VM:
        name = f"{self._label}-{next(self._numbers)}"
        configuration = attrs.evolve(configuration, guest_cid=next(self._cids))
        return VM(configuration, self.artifacts / name, name, start)
