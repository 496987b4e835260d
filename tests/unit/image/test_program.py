# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from kvtest.errors import RecipeError
from kvtest.harness import GuestFactory
from kvtest.image.agent import find_agent
from kvtest.image.program import read_program
from kvtest.runtime.agent_machine import AgentMachines
from kvtest.settings import Settings


def executable(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o755)
    return path


def elf(machine: int, interpreter: str | None = None) -> bytes:
    """Return the beginning of an ELF executable of 64 bits."""
    name = interpreter.encode() + b"\0" if interpreter is not None else b""
    count = 1 if name else 0
    head = (
        b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    )
    table = struct.pack("<IIQQQQQQ", 3, 4, 64 + 56, 0, 0, len(name), len(name), 1) if name else b""
    return head + table + name


def test_a_program_with_libraries_names_them() -> None:
    path = Path(shutil.which("bash") or "/bin/bash")
    program = read_program(path)
    assert program.loader is not None
    assert any(library.name.startswith("libc.so") for library in program.libraries)


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    data = Path(shutil.which("bash") or "/bin/bash").read_bytes()
    path = executable(tmp_path / "agent", data.replace(b"libc.so.6\0", b"libq.so.6\0"))
    with pytest.raises(RecipeError, match=r"agent needs a library that was not found: libq\.so\.6"):
        read_program(path)


def test_a_static_program_needs_nothing(tmp_path: Path) -> None:
    program = read_program(executable(tmp_path / "agent", elf(62)))
    assert (program.loader, program.libraries) == (None, ())


def test_another_program_is_another_image(tmp_path: Path) -> None:
    one = read_program(executable(tmp_path / "one", elf(62)))
    other = read_program(executable(tmp_path / "other", elf(62) + b"more"))
    assert one.digest != other.digest


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (elf(183), "is for aarch64, guests are x86-64"),
        (elf(3), "is for x86 of 32 bits"),
        (b"\x7fELF\1" + elf(62)[5:], "is for x86-64 of 32 bits, guests are x86-64"),
        (elf(999), "is for machine 999"),
        (b"just text\n", "is no ELF executable"),
        (b"", "is no ELF executable"),
        (b"\x7fELF", "is no ELF executable"),
        (elf(62, "/no/such/ld-musl-x86_64.so.1"), "needs the loader /no/such/ld-musl-x86_64.so.1"),
    ],
)
def test_what_cannot_run_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        read_program(executable(tmp_path / "agent", data))
    assert message in refused.value.message
    assert str(tmp_path / "agent") in refused.value.message


def test_a_program_that_is_absent_or_not_executable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"could not read the agent .*: No such file"):
        read_program(tmp_path / "absent")
    (tmp_path / "agent").write_bytes(elf(62))
    with pytest.raises(RecipeError, match="is not executable") as refused:
        read_program(tmp_path / "agent")
    assert refused.value.hint == f"chmod +x {tmp_path}/agent"


@pytest.mark.parametrize("prepare", [GuestFactory.prepare, lambda factory: AgentMachines(factory).prepare()])
def test_a_wrong_agent_is_refused_before_anything_is_built(
    settings: Settings, tmp_path: Path, prepare: Callable[[GuestFactory], None]
) -> None:
    agent = executable(tmp_path / "agent", elf(183))
    wrong = attrs.evolve(settings, agent=agent, cache=tmp_path / "cache")
    with pytest.raises(RecipeError, match="is for aarch64"):
        prepare(GuestFactory(wrong, tmp_path / "guests"))
    assert list(tmp_path.iterdir()) == [agent]


def test_a_relative_path_is_no_agent() -> None:
    with pytest.raises(RecipeError, match="'kata-agent' is neither 'reference' nor an absolute path"):
        find_agent("kata-agent")
