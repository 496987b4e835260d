# SPDX-License-Identifier: Apache-2.0
"""The doctor on a real machine, and on a guest that has the kernel's vhost-vsock, as a host has."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from kvtest.doctor.examination import examination
from kvtest.doctor.kernel import LOAD
from kvtest.doctor.report import GUESTS, Status
from kvtest.harness import Guest
from kvtest.resources import package_directory
from kvtest.settings import LoadedSettings, Settings, load

DEVICE = "/dev/vhost-vsock"


def hold(path: str, cid: int) -> Iterator[None]:
    """Reserve a CID until this is closed."""
    import fcntl
    import os
    import struct

    descriptor = os.open(path, os.O_RDWR)
    fcntl.ioctl(descriptor, 0x4008AF60, struct.pack("=Q", cid))
    yield
    os.close(descriptor)


def reserve(cid: int | None = None) -> str:
    """Reserve a CID and give it back; runs in the guest."""
    import sys

    sys.path.insert(0, "/run")  # guests do not have this module: the test puts it there, as a file of its own
    from reservation import ReservedCid  # type: ignore[import-not-found]

    from kvtest.errors import HostError

    try:
        with ReservedCid(cid) as reserved:
            return str(reserved.cid)
    except HostError as error:
        return error.message


def test_the_device_of_a_real_kernel_is_tried(clone: Callable[..., Guest]) -> None:
    guest = clone(vsock=False)
    guest.write_file("/run/reservation.py", (package_directory() / "vsock/reservation.py").read_bytes())
    assert guest.call(reserve) == f"{DEVICE} does not open: No such file or directory"
    guest.run(list(LOAD)).check()
    assert guest.call(reserve, 77) == "77"
    assert guest.call(reserve, 77) == "77"  # the first has let go of its CID
    assert guest.call(reserve, 1) == f"{DEVICE} opens, but reserves no CID: Invalid argument"
    with guest.start(hold, DEVICE, 77):
        assert guest.call(reserve, 77) == "CID 77 is another guest's"
        assert int(guest.call(reserve)) >= 3


def loaded(settings: Settings) -> LoadedSettings:
    """The settings as they are, none of them named by the user."""
    return load({"cache": str(settings.cache)}, os.environ, {}, Path("/"))


def test_this_machine(settings: Settings) -> None:
    report = examination(loaded(settings))
    rows = {row.check: row for row in report.findings}
    assert report.works
    assert report.demanded == frozenset(GUESTS)
    assert rows["/dev/vhost-vsock"].status is not Status.OK or os.path.exists(DEVICE)
    assert not [row for row in report.findings if "could not be" in row.found]


def kvtest(*arguments: str, path: str, cache: Path, code: int) -> dict[str, dict[str, Any]]:
    environment = {**os.environ, "KVTEST_CACHE": str(cache), "PATH": path}
    command = [sys.executable, "-m", "kvtest", "doctor", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["works"] == (code == 0)
    return {row["check"]: row for row in answer["checks"]}


def shim_in(directory: Path, command: str) -> str:
    """Make a shim of Kata's name; return a PATH on which it is the first."""
    shim = directory / "containerd-shim-kata-v2"
    shim.write_text(f"#!/bin/sh\n{command}\n")
    shim.chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("device", "status", "code"),
    [("vhost-user-vsock-pci", "missing", 2), ("virtserialport", "missing", 2), ("vhost-vsock-pci", "not needed", 0)],
)
def test_the_exit_status_follows_what_qemu_offers(
    settings: Settings, tmp_path: Path, device: str, status: str, code: int
) -> None:
    qemu = tmp_path / "qemu"
    real = shutil.which(settings.qemu)
    qemu.write_text(f'#!/bin/sh\n[ "$1" = -device ] || exec {real} "$@"\n{real} "$@" | grep -v \'^name "{device}"\'\n')
    qemu.chmod(0o755)
    rows = kvtest("--qemu", str(qemu), "--accelerator", "tcg", path=os.environ["PATH"], cache=settings.cache, code=code)
    assert rows[device]["status"] == status
    assert rows["QEMU"]["status"] == "ok"


def test_a_shim_that_hangs_is_a_row(settings: Settings, tmp_path: Path) -> None:
    path = shim_in(tmp_path, "exec tail -f /dev/null")
    rows = kvtest("--accelerator", "tcg", path=path, cache=settings.cache, code=0)
    assert rows["Kata shim"]["status"] == "warning"
    assert "version unknown" in rows["Kata shim"]["found"]


@pytest.mark.skipif(os.geteuid() != 0, reason="without root a run leaves out the runtime ring")
@pytest.mark.parametrize(
    ("does", "found"),
    [
        ("exec tail -f /dev/null", "waited "),
        ('[ "$1" != --config ] || exit 7', "did not start: "),
        (None, "/containerd)"),
    ],
)
def test_a_containerd_that_is_broken_counts(settings: Settings, tmp_path: Path, does: str | None, found: str) -> None:
    if does is not None:
        (tmp_path / "containerd").write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / "containerd").chmod(0o755)
    path, code = f"{tmp_path}:{os.environ['PATH']}", 0 if does is None else 2
    row = kvtest("--accelerator", "tcg", path=path, cache=settings.cache, code=code)["containerd"]
    assert (row["status"], row["needed_by"]) == ("ok" if does is None else "missing", ["runtime"])
    assert found in row["found"]


def test_where_nothing_is_built_the_mirror_has_to_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        mirror = f"http://127.0.0.1:{nobody.getsockname()[1]}/debian"
    asked = ("--accelerator", "tcg", "--mirror", mirror)
    rows = kvtest(*asked, path=os.environ["PATH"], cache=tmp_path / "cache", code=2)
    assert rows["package mirror"]["status"] == "missing"
    assert rows["cache"]["status"] == "ok"
    assert not (tmp_path / "cache").exists()


def test_a_configuration_that_is_none_is_a_row(settings: Settings, tmp_path: Path) -> None:
    path = shim_in(tmp_path, "echo 'containerd shim (Golang): version: 3.2.0'")
    broken = tmp_path / "configuration.toml"
    broken.write_text("[hypervisor.qemu\n")
    asked = ("--runtime", "kata", "--runtime-config", str(broken), "--accelerator", "tcg")
    rows = kvtest(*asked, path=path, cache=settings.cache, code=2)
    assert rows["Kata configuration"]["status"] == "missing"
    assert rows["Kata configuration"]["found"].startswith(f"{broken} is no TOML: ")


def test_a_runtime_that_was_named_has_to_be_there(settings: Settings) -> None:
    assert examination(loaded(settings)).works
    named = load({"cache": str(settings.cache), "shim": "/nowhere/shim"}, os.environ, {}, Path("/"))
    report = examination(named)
    assert not report.works
    missing = [row.found for row in report.findings if row.status is Status.MISSING and row.check.startswith("runtime")]
    assert missing == ["there is no /nowhere/shim, the shim of reference"]
    assert attrs.evolve(report, demanded=frozenset(GUESTS)).works
