# SPDX-License-Identifier: Apache-2.0
"""Kata Containers of every generation."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import attrs
import pytest

from kvtest.doctor import Finding, Need, Status, kata, kata_configuration
from kvtest.doctor.kata_configuration import needs
from kvtest.doctor.system import Program, System
from tests.unit.doctor.conftest import Look, Machine

CHECKS = (*kata.CHECKS, *kata_configuration.CHECKS)
GO = "/opt/kata/share/defaults/kata-containers/configuration.toml"


def statuses(found: dict[str, Finding]) -> dict[str, str]:
    return {name: str(row.status) for name, row in found.items()}


def test_none_is_installed(look: Look) -> None:
    found = look(CHECKS, System("6.1"))
    assert list(found) == ["Kata shim"]
    assert found["Kata shim"].status is Status.MISSING
    assert not kata.installed(System("6.1"))


def test_1_1_is_too_old(machine: Machine, look: Look) -> None:
    found = look(CHECKS, machine("kata-1.1"))
    assert found["kata-runtime"].found == "/usr/bin/kata-runtime: 1.1.0; vsock came with 1.2.0"
    assert found["kata-runtime"].status is Status.MISSING
    assert found["Kata shim"].found == "no containerd-shim-kata-v2"
    assert found["Kata use_vsock"].status is Status.MISSING
    assert found["Kata hypervisor"].status is Status.OK


def test_1_12_needs_use_vsock(machine: Machine, look: Look) -> None:
    system = machine("kata-1.12")
    found = look(CHECKS, system)
    assert found["Kata shim"].found == "/usr/bin/containerd-shim-kata-v2 (Go): 1.12.1"
    assert found["Kata use_vsock"].found == "not set, which is false: the agent is reached over a serial port"
    path = "/etc/kata-containers/configuration.toml"
    assert found["Kata use_vsock"].cure == (f"sed -i '/^[[:space:]]*\\[hypervisor\\.qemu\\]/a use_vsock = true' {path}")
    assert found["Kata configuration"].found == (
        f"{path}, its default; there is also /usr/share/defaults/kata-containers/configuration.toml, its default"
    )
    assert "Kata dial timeout" not in found
    mended = attrs.evolve(system, files={path: system.files[path].replace("#use_vsock", "use_vsock")})
    assert look(CHECKS, mended)["Kata use_vsock"].status is Status.OK
    assert set(statuses(look(CHECKS, mended)).values()) == {"ok"}


FIRST = '[hypervisor.firecracker]\npath = "/f"\nuse_vsock = false\n'
FILES = 'kernel = "/k"\nimage = "/i"\n'


@pytest.mark.parametrize(
    "table",
    [
        f"[hypervisor.qemu]\n{FILES}",  # without such a line
        f"  [hypervisor.qemu] # the default\n{FILES}#use_vsock = true\n# use_vsock = false\n",
        f"[hypervisor.qemu]\n{FILES}use_vsock = false\n# Default false\n#use_vsock = true\n",
        f"[hypervisor.qemu]\n{FILES}  use_vsock=false # off\n",
        f'[hypervisor.qemu]\n{FILES}use_vsock = "true"\n',
    ],
)
@pytest.mark.parametrize("first", ["", FIRST])
def test_the_command_that_turns_vsock_on_does(
    machine: Machine, look: Look, tmp_path: Path, table: str, first: str
) -> None:
    path = tmp_path / "configuration of kata.toml"
    path.write_text(f"{first}{table}[proxy.kata]\nuse_vsock = false\n[runtime]\nhypervisor_name = 'qemu'\n")
    before = tomllib.loads(path.read_text())

    def seen() -> Finding:
        system = attrs.evolve(machine("kata-1.12"), kata_conf_file=str(path), files={str(path): path.read_text()})
        return look(CHECKS, system)["Kata use_vsock"]

    row = seen()
    assert row.status is Status.MISSING
    subprocess.run(["sh", "-c", row.cure or ""], check=True, timeout=10)
    assert seen().status is Status.OK
    before["hypervisor"]["qemu"]["use_vsock"] = True  # and nothing else
    assert tomllib.loads(path.read_text()) == before


def test_a_table_that_no_command_finds_is_told_in_words(machine: Machine, look: Look) -> None:
    files = {"/x": 'hypervisor = { qemu = { kernel = "/k", image = "/i" } }\n'}
    system = attrs.evolve(machine("kata-1.12"), kata_conf_file="/x", files=files)
    row = look(CHECKS, system)["Kata use_vsock"]
    assert (row.status, row.cure) == (Status.MISSING, "use_vsock = true in [hypervisor.qemu] of /x")


@pytest.mark.parametrize(
    ("kind", "key", "value", "shown"),
    [
        ("kata-3.23", "dial_timeout", '"soon"', '"soon"'),
        ("kata-3.23", "dial_timeout", "45.0", "45.0"),
        ("kata-3.23", "dial_timeout", "true", "true"),
        ("kata-3.23", "dial_timeout", "-1", "-1"),
        ("kata-3.23", "dial_timeout", "4294967296", "4294967296"),
        ("kata-3.23", "dial_timeout", '""', '""'),
        ("kata-3.23", "dial_timeout", "1979-05-27", '"1979-05-27"'),
        ("kata-4.2", "reconnect_timeout_ms", '"soon"', '"soon"'),
    ],
)
def test_a_timeout_that_is_no_number(machine: Machine, look: Look, kind: str, key: str, value: str, shown: str) -> None:
    system, shipped = machine(kind), {"dial_timeout": 45, "reconnect_timeout_ms": 3000}[key]
    given = {"/x": f"[hypervisor.qemu]\n[agent.kata]\n{key} = {value}\n"}
    row = look(CHECKS, attrs.evolve(system, kata_conf_file="/x", files=given))["Kata dial timeout"]
    assert row.status is Status.MISSING
    assert row.found == f"{key} = {shown} is no whole number; Kata does not start with it"
    assert row.cure == f"{key} = {shipped} in [agent.kata] of /x"


def test_2_5_with_leavings_of_1_x(machine: Machine, look: Look) -> None:
    found = look(CHECKS, machine("kata-2.5"))
    assert found["Kata use_vsock"].status is Status.WARNING
    assert found["Kata use_vsock"].found == "false, which has no effect; removed in 2.0: always vsock"
    assert found["Kata hypervisor"].found == (
        "qemu: not there: image /opt/kata/share/kata-containers/kata-containers.img"
    )
    assert found["Kata hypervisor"].status is Status.MISSING
    assert found["Kata dial timeout"].status is Status.WARNING
    assert found["Kata dial timeout"].found.startswith("10 s")
    assert "Kata shim in use" not in found


def test_3_x_with_both_runtimes(machine: Machine, look: Look) -> None:
    system = machine("kata-3.23")
    found = look(CHECKS, system)
    assert found["Kata shim in use"].found.endswith(
        "; containerd, by PATH, starts Go, /usr/local/bin/containerd-shim-kata-v2"
    )
    assert found["Kata configuration"].found == f"{GO}, its default"
    assert found["Kata use_vsock"].found == "removed in 2.0: always vsock"
    assert found["Kata dial timeout"].found == "45 s"
    assert needs(system) == {Need.KATA, Need.VHOST_VSOCK}


def test_containerd_is_told_which_to_start(machine: Machine, look: Look) -> None:
    system = machine("kata-3.23")
    rust = "/opt/kata/runtime-rs/bin/containerd-shim-kata-v2"
    told = (system.containerd_configuration or "").replace('runtime_path = ""', f'runtime_path = "{rust}"')
    system = attrs.evolve(system, containerd_configuration=told)
    found = look(CHECKS, system)
    assert found["Kata shim in use"].found.endswith(f"; containerd, by its configuration, starts Rust, {rust}")
    assert found["Kata configuration"].found.endswith("/runtime-rs/configuration.toml, its default")
    assert found["Kata hypervisor"].found.startswith("dragonball: kernel ")
    assert needs(system) == {Need.KATA}  # its vsock needs no device of the host's


def test_a_running_containerd_has_a_path_of_its_own(machine: Machine, look: Look) -> None:
    system, rust = machine("kata-3.23"), "/opt/kata/runtime-rs/bin/containerd-shim-kata-v2"
    row = look(CHECKS, attrs.evolve(system, found_by_containerd=rust))["Kata shim in use"]
    assert row.found.endswith(f"; containerd, by the PATH that it runs with, starts Rust, {rust}")
    row = look(CHECKS, attrs.evolve(system, found_by_containerd=""))["Kata shim in use"]
    assert row.status is Status.WARNING
    assert row.found == ("the containerd that runs does not find /usr/local/bin/containerd-shim-kata-v2 on its PATH")


def test_4_2_in_rust(machine: Machine, look: Look) -> None:
    found = look(CHECKS, machine("kata-4.2"))
    assert set(statuses(found).values()) == {"ok"}
    assert found["Kata shim"].found == "/usr/local/bin/containerd-shim-kata-v2 (Rust): 4.2.0"
    assert found["Kata configuration"].found == "/etc/kata-containers/runtime-rs/configuration.toml, its default"
    assert found["Kata dial timeout"].found == "reconnect_timeout_ms 3000; runtime-rs dials for at least 10 s"


def test_a_shim_of_the_settings_goes_before_all_others(machine: Machine, look: Look) -> None:
    rust = "/opt/kata/runtime-rs/bin/containerd-shim-kata-v2"
    found = look(CHECKS, attrs.evolve(machine("kata-3.23"), shim=rust))
    assert found["Kata shim in use"].found.endswith(f"; --shim names Rust, {rust}")
    assert found["Kata configuration"].found.endswith("/runtime-rs/configuration.toml, its default")


def test_the_order_of_configurations(machine: Machine, look: Look) -> None:
    system = machine("kata-3.23")
    text = system.files[GO]
    files = {**system.files, "/variable.toml": text, "/qemu.toml": text, "/given.toml": text}
    system = attrs.evolve(system, files=files, kata_conf_file="/variable.toml")
    row = look(CHECKS, system)["Kata configuration"]
    assert row.found == f"/variable.toml, KATA_CONF_FILE; there is also {GO}, its default"
    dump = (
        "[plugins.cri.containerd.runtimes.kata-qemu]\n"
        'runtime_type = "io.containerd.kata-qemu.v2"\noptions = { ConfigPath = "/qemu.toml" }\n'
    )
    system = attrs.evolve(system, containerd_configuration=dump)
    row = look(CHECKS, system)["Kata configuration"]
    assert row.found.startswith("/qemu.toml, containerd's runtime kata-qemu; there is also /variable.toml, KATA_CONF")
    system = attrs.evolve(system, runtime_config="/given.toml")
    assert look(CHECKS, system)["Kata configuration"].found.startswith("/given.toml, --runtime-config; ")


def test_the_usual_runtime_of_containerd_goes_before_those_of_kata_deploy(machine: Machine) -> None:
    dump = "".join(
        f'[plugins.cri.containerd.runtimes.{name}]\nruntime_type = "io.containerd.{kind}.v2"\nruntime_path = "{path}"\n'
        for name, kind, path in [("a", "kata-clh", "/a"), ("b", "kata", "/b"), ("c", "runc", "/c"), ("d", "x", "/d/s")]
    ).replace("/d/s", f"/d/{kata.SHIM}")
    assert [one.name for one in kata.kata_handlers(dump)] == ["b", "a", "d"]
    system = machine("kata-3.23")
    shims = tuple(attrs.evolve(shim, path=path) for shim, path in zip(system.programs, ("/a", "/b"), strict=True))
    found = kata.started(attrs.evolve(system, programs=shims, containerd_configuration=dump))
    assert found is not None
    assert found.path == "/b"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[hypervisor.qemu\n", "/x is no TOML: "),
        ("", "/x has no [hypervisor.NAME]"),
        ("hypervisor = 3\nruntime = 4\nagent = 5", "/x has no [hypervisor.NAME]"),
        ('[hypervisor.qemu]\npath = "/opt/kata/bin/qemu-system-x86_64"', "qemu: /x names no kernel and no image or"),
    ],
)
def test_a_configuration_that_nothing_can_be_made_of(machine: Machine, look: Look, text: str, found: str) -> None:
    system = attrs.evolve(machine("kata-3.23"), kata_conf_file="/x", files={"/x": text})
    rows = look(CHECKS, system)
    assert any(row.found.startswith(found) and row.status is Status.MISSING for row in rows.values())
    assert not any("could not be checked" in row.found for row in rows.values())
    assert Need.KATA in needs(system)


def test_no_configuration_or_none_that_may_be_read(machine: Machine, look: Look) -> None:
    absent = attrs.evolve(machine("kata-4.2"), files={})
    assert look(CHECKS, absent)["Kata configuration"].found.startswith("none of /etc/kata-containers/runtime-rs/")
    secret = attrs.evolve(absent, unseen={"/etc/kata-containers/runtime-rs/configuration.toml": "Permission denied"})
    assert look(CHECKS, secret)["Kata configuration"].found.endswith("configuration.toml: Permission denied")


def test_a_shim_that_nobody_would_find(machine: Machine, look: Look) -> None:
    system = machine("kata-3.23")
    hidden = attrs.evolve(system, programs=tuple(attrs.evolve(one, on_path=False) for one in system.programs))
    row = look(CHECKS, hidden)["Kata shim in use"]
    assert row.status is Status.MISSING
    assert row.cure is not None
    assert row.cure.startswith("ln -s /usr/local/bin/")


def test_a_shim_that_does_not_answer(look: Look) -> None:
    shim = Program(kata.SHIM, "/bin/shim", problem="it did not end within 5 s")
    row = look(CHECKS, System("6.1", programs=(shim,)))["Kata shim"]
    assert (row.status, row.cure) == (Status.WARNING, "/bin/shim --version")
    assert "it did not end within 5 s" in row.found
