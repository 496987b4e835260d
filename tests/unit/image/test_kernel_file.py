# SPDX-License-Identifier: Apache-2.0
"""Kernels that somebody else has built, by the path of their images."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest

from kvtest.errors import RecipeError
from kvtest.image.kernel_config import parse_config, problems, remarks
from kvtest.image.kernel_file import read_kernel
from kvtest.start import AgentDisk

GOOD = """# a comment
CONFIG_CGROUPS=y
CONFIG_MEMCG=y
CONFIG_CGROUP_PIDS=y
CONFIG_CGROUP_SCHED=y
CONFIG_NAMESPACES=y
CONFIG_PID_NS=y
CONFIG_IPC_NS=y
CONFIG_UTS_NS=y
CONFIG_NET_NS=y
CONFIG_DEVTMPFS=y
CONFIG_BLK_DEV_INITRD=y
CONFIG_VSOCKETS=m
CONFIG_VIRTIO_VSOCKETS=m
CONFIG_VIRTIO_PCI=y
CONFIG_SERIAL_8250_CONSOLE=y
CONFIG_BLK_DEV_NVME=y
CONFIG_EXT4_FS=y
# CONFIG_VIRTIO_BLK is not set
"""


def bzimage(payload: bytes, release: str = "6.1.0-test", wide: bool = True) -> bytes:
    """Return what a bzImage has of its header, with a payload."""
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x200 - 128)
    text = f"{release} (somebody@somewhere) #1\0".encode()
    head[0x380 : 0x380 + len(text)] = text
    struct.pack_into("<H", head, 0x236, int(wide))
    struct.pack_into("<II", head, 0x248, 0, len(payload))
    return bytes(head) + payload


def with_config(text: str) -> bytes:
    return gzip.compress(b"code IKCFG_ST" + gzip.compress(text.encode()) + b"IKCFG_ED more code") + b"size"


def test_a_kernel_that_holds_its_configuration(tmp_path: Path) -> None:
    path = tmp_path / "bzImage"
    path.write_bytes(bzimage(with_config(GOOD)))
    kernel = read_kernel(path)
    assert kernel.release == "6.1.0-test"
    assert kernel.config is not None
    assert kernel.config.source == f"{path} itself"
    assert kernel.config.values["CONFIG_VIRTIO_VSOCKETS"] == "m"
    assert "CONFIG_VIRTIO_BLK" not in kernel.config.values


@pytest.mark.parametrize("name", ["config-6.1.0-test", "config-6.1.0-17", "config", ".config"])
def test_the_configuration_beside_it_comes_first(tmp_path: Path, name: str) -> None:
    (tmp_path / "real").mkdir()
    path = tmp_path / "real/vmlinuz-6.1.0-17"
    path.write_bytes(bzimage(with_config("CONFIG_X=n\n")))
    (tmp_path / "vmlinuz.container").symlink_to(path)
    (tmp_path / "real" / name).write_text(GOOD)
    kernel = read_kernel(tmp_path / "vmlinuz.container")
    assert kernel.config is not None
    assert kernel.config.source == str(tmp_path / "real" / name)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (gzip.compress(b"no configuration") + b"size", "built without CONFIG_IKCONFIG"),
        (b"\x1f\x8bnonsense", "could not be unpacked"),
        (b"nonsense", "compressed in a way that is not known"),
        (b"\x28\xb5\x2f\xfdnonsense", "zstd"),
    ],
    ids=["without", "damaged gzip", "unknown", "damaged zstd"],
)
def test_it_is_said_why_there_is_no_configuration(tmp_path: Path, payload: bytes, reason: str) -> None:
    path = tmp_path / "bzImage"
    path.write_bytes(bzimage(payload))
    kernel = read_kernel(path)
    assert kernel.config is None
    assert reason in kernel.unread


def test_an_elf_kernel(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    head = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HH", 2, 62)
    path.write_bytes(head + bytes(100) + b"Linux version 6.9.1 (x@y) \0IKCFG_ST" + gzip.compress(GOOD.encode()))
    kernel = read_kernel(path)
    assert (kernel.release, kernel.config is not None) == ("6.9.1", True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"#!/bin/sh\n", "is no Linux kernel for x86-64"),
        (b"", "is no Linux kernel for x86-64"),
        (b"MZ" + bytes(0x36) + b"ARM\x64" + bytes(100), "is for aarch64, guests are x86-64"),
        (b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HH", 2, 183) + bytes(60), "is for aarch64, guests are x86-64"),
        (bzimage(b"", wide=False), "is for x86 of 32 bits, guests are x86-64"),
    ],
    ids=["script", "empty", "aarch64 Image", "aarch64 ELF", "bzImage of 32 bits"],
)
def test_what_is_no_kernel_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(data)
    with pytest.raises(RecipeError, match=message):
        read_kernel(path)


def test_a_kernel_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"could not read the kernel .*/none: No such file"):
        read_kernel(tmp_path / "none")


def test_what_a_kernel_lacks_is_named() -> None:
    good = parse_config(GOOD, "here")
    assert list(problems(good)) == []
    assert list(problems(good, AgentDisk.NVME, "ext4")) == []
    assert list(problems(good, AgentDisk.VIRTIO_BLK, "xfs")) == [
        "CONFIG_VIRTIO_BLK is n and has to be y, for its root on virtio-blk",
        "CONFIG_XFS_FS is n and has to be y, for its root, which is xfs",
    ]
    without = parse_config(GOOD.replace("CONFIG_VIRTIO_VSOCKETS=m\n", "").replace("CONFIG_MEMCG=y\n", ""), "here")
    assert list(problems(without)) == [
        "CONFIG_MEMCG is n and has to be y, for the cgroup controller memory",
        "CONFIG_VIRTIO_VSOCKETS is n and has to be y or m, for virtio-vsock, on which the agent listens",
    ]


def test_modules_and_a_silent_console_are_remarked() -> None:
    said = list(remarks(parse_config(GOOD.replace("CONFIG_SERIAL_8250_CONSOLE=y\n", ""), "here")))
    assert said[0].startswith("CONFIG_VSOCKETS and CONFIG_VIRTIO_VSOCKETS: modules")
    assert said[1].startswith("CONFIG_SERIAL_8250_CONSOLE is not y")
