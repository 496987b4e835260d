# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kvtest.runtime import profile
from kvtest.runtime.reference.preparation import over_the_kernel
from kvtest.start import AgentDisk
from kvtest.transport import Transport
from kvtest.vm import QEMU, Accelerator, Configuration
from kvtest.vm.command_line import CommandLine, Group, option, raw
from kvtest.vm.configuration import ColdBoot, Disk, Restore
from kvtest.vm.q35 import command_line


def test_commas_are_doubled_where_qemu_splits() -> None:
    part = option("chardev", "file", id="console", path=Path("/a,b c"), append=True, max_ports=3)
    assert part.argument == "file,id=console,path=/a,,b c,append=on,max-ports=3"
    assert raw("append", "a,b").argument == "a,b"


def test_the_script_is_the_command() -> None:
    groups = (Group("first", (option("nodefaults"), raw("append", "a 'b' $c"))), Group("second", (option("m", "1M"),)))
    line = CommandLine("/usr/bin/qemu", groups)
    script = line.script()
    assert "#   second: 1M" in script
    command = script[script.index("exec ") + 5 :].replace("\\\n", "")
    assert shlex.split(command) == line.words == ["/usr/bin/qemu", "-nodefaults", "-append", "a 'b' $c", "-m", "1M"]


def configuration(**changes: object) -> Configuration:
    values = {"qemu": QEMU("/q", "7.2"), "accelerator": Accelerator.TCG, "kernel": Path("/k"), "initramfs": Path("/i")}
    return Configuration(**{**values, **changes})  # type: ignore[arg-type] # the test's own values


def test_a_guest_has_no_network_and_a_sandboxed_vmm() -> None:
    words = command_line(configuration(), "guest", Path("/run/x"), Path("/a/console"), ColdBoot()).words
    assert {"-nodefaults", "-no-user-config", "-no-reboot", "-sandbox"} <= set(words)
    assert not [word for word in words if "net" in word.lower()]


def test_only_what_is_asked_for_is_there() -> None:
    def devices(*transports: Transport) -> str:
        chosen = configuration(transports=frozenset(transports), serial_ports=("one", "two"))
        return " ".join(command_line(chosen, "guest", Path("/run/x"), Path("/a/console"), ColdBoot()).words)

    assert "vsock" not in devices(Transport.VIRTIO_SERIAL)
    assert devices(Transport.VIRTIO_SERIAL).count("virtserialport") == 3
    assert "vhost-user-vsock-pci" in devices(Transport.VHOST_USER_VSOCK)
    assert devices(Transport.VHOST_USER_VSOCK).count("virtserialport") == 1


def test_a_machine_without_our_control_daemon_has_no_channel_to_it() -> None:
    bare = configuration(controlled=False, initramfs=None, disk=Disk(Path("/d,1"), AgentDisk.NVME))
    words = command_line(bare, "guest", Path("/run/x"), Path("/a/console"), ColdBoot()).words
    assert "-initrd" not in words
    assert not [word for word in words if "org.kvtest.control" in word or "id=control" in word]
    assert "if=none,id=disk,format=raw,file=/d,,1,readonly=on" in words
    assert "nvme,drive=disk,serial=kvtest" in words


@pytest.mark.parametrize("start", [ColdBoot(), Restore(Path("/m"), shared=False, kernel=Path("/k"), commands=7)])
def test_the_address_of_a_vsock_of_the_kernel_is_known_from_the_command_line(start: ColdBoot | Restore) -> None:
    reserved: Any = SimpleNamespace(cid=77, descriptor=9)
    kind = configuration(transports=frozenset({Transport.VHOST_VSOCK}))
    line = " ".join(command_line(kind, "guest", Path("/run/x"), Path("/a/console"), start, reserved).words)
    vm = over_the_kernel(profile.load("reference").vm)
    assert vm is not None
    for place, port in ((vm.console, 1026), (vm.agent, 1024)):
        assert place is not None
        found = re.search(place.found or "", line)
        assert found is not None
        assert place.address.format(**found.groupdict()) == f"vsock://77:{port}"
