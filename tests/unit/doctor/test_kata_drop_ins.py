# SPDX-License-Identifier: Apache-2.0
"""Kata Containers' drop-in files: which values are in force."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from kvtest.doctor import Need, Status, kata_configuration
from kvtest.doctor.gather import gather
from kvtest.doctor.kata_configuration import needs
from kvtest.doctor.system import System
from kvtest.settings import Settings
from tests.unit.doctor.conftest import Look, Machine

CHECKS = kata_configuration.CHECKS
BASE = "/etc/kata-containers/configuration.toml"
OVER = "/opt/kata/share/defaults/kata-containers/config.d"
RUST = "/etc/kata-containers/runtime-rs"


@pytest.fixture
def go(machine: Machine) -> System:
    return machine("kata-3.29-drop-ins")


def with_file(system: System, path: str, text: str) -> System:
    return attrs.evolve(system, files={**system.files, path: text})


def test_drop_in_files_go_over_the_configuration_in_their_order(go: System, look: Look) -> None:
    found = look(CHECKS, go)
    assert found["Kata configuration"].found == f"{BASE}, its default"
    assert found["Kata drop-in files"].found == (
        f"in force, a later one before an earlier one: {OVER}/10-initrd.toml, {OVER}/20-patience"
    )
    assert found["Kata hypervisor"].found == (
        "qemu: path /opt/kata/bin/qemu-system-x86_64, kernel /opt/kata/share/kata-containers/vmlinux.container, "
        "initrd /opt/kata/share/kata-containers/kata-containers-initrd.img (config.d/10-initrd.toml)"
    )
    assert found["Kata dial timeout"].found == "90 s (config.d/20-patience)"
    assert {row.status for row in found.values()} == {Status.OK}


def test_the_file_that_is_wrong_is_the_one_to_mend(go: System, look: Look) -> None:
    last = f"{OVER}/30-mine"
    found = look(CHECKS, with_file(go, last, '[hypervisor.qemu]\nkernel = "/gone"\n[agent.kata]\ndial_timeout = 3\n'))
    assert found["Kata hypervisor"].found == "qemu: not there: kernel /gone (config.d/30-mine)"
    assert found["Kata hypervisor"].cure == f"install it, or mend {last}"
    assert found["Kata dial timeout"].cure == f"dial_timeout = 45 in [agent.kata] of {last}"


def test_an_initrd_over_an_image(go: System, look: Look) -> None:
    path = f"{OVER}/10-initrd.toml"
    there = attrs.evolve(go, existing=(*go.existing, "/opt/kata/share/kata-containers/kata-containers.img"))
    row = look(CHECKS, with_file(there, path, go.files[path].replace('image = ""\n', "")))["Kata hypervisor"]
    assert row.found.endswith("(config.d/10-initrd.toml), and the Go runtime starts with only one of them")
    assert (row.status, row.cure) == (Status.MISSING, f'set the other to "" in {path}')


@pytest.mark.parametrize(
    ("text", "problem"), [("[hypervisor.qemu\n", "no TOML: "), (None, "Permission denied; Kata does not start with it")]
)
def test_a_drop_in_file_that_cannot_be_used(go: System, look: Look, text: str | None, problem: str) -> None:
    path = f"{OVER}/30-mine"
    system = attrs.evolve(go, unseen={path: "Permission denied"}) if text is None else with_file(go, path, text)
    found = look(CHECKS, system)
    assert found["Kata drop-in files"].found.startswith(f"{path}: {problem}")
    assert found["Kata drop-in files"].status is Status.MISSING
    assert found["Kata dial timeout"].found == "90 s (config.d/20-patience)"


def test_the_go_runtime_refuses_use_vsock_there(go: System, look: Look) -> None:
    path = f"{OVER}/30-mine"
    row = look(CHECKS, with_file(go, path, "[hypervisor.qemu]\nuse_vsock = true\n"))["Kata use_vsock"]
    assert (row.status, row.cure) == (Status.MISSING, f"sed -i /^use_vsock/d {path}")
    assert row.found.startswith(f"set by {path}, and the Go runtime does not start with")


def test_before_2_5_they_are_not_read(machine: Machine, look: Look) -> None:
    system = machine("kata-1.12")
    path = "/etc/kata-containers/config.d/vsock"
    found = look(CHECKS, with_file(system, path, "[hypervisor.qemu]\nuse_vsock = true\n"))
    assert found["Kata drop-in files"].status is Status.WARNING
    assert found["Kata drop-in files"].found == f"{path}: not in force, the Go runtime reads them from 2.5 on"
    assert found["Kata use_vsock"].status is Status.MISSING


def test_runtime_rs_has_its_own(machine: Machine, look: Look) -> None:
    system = machine("kata-4.2")
    assert needs(system) == {Need.KATA, Need.VHOST_VSOCK}
    text = f'[runtime]\nhypervisor_name = "clh"\n[hypervisor.clh]\nkernel = "{system.existing[1]}"\n'
    system = with_file(system, f"{RUST}/config.d/clh.toml", f'{text}image = "{system.existing[2]}"\n')
    found = look(CHECKS, system)
    assert found["Kata hypervisor"].found.startswith("clh: kernel ")
    assert "(config.d/clh.toml)" in found["Kata hypervisor"].found
    assert needs(system) == {Need.KATA}


def test_runtime_rs_takes_its_variable_before_its_options(machine: Machine, look: Look) -> None:
    system = machine("kata-4.2")
    text = next(iter(system.files.values()))
    dump = (
        "[plugins.cri.containerd.runtimes.kata]\n"
        'runtime_type = "io.containerd.kata.v2"\noptions = { ConfigPath = "/option.toml" }\n'
    )
    files = {**system.files, "/option.toml": text, "/variable.toml": text}
    system = attrs.evolve(system, files=files, containerd_configuration=dump)
    assert look(CHECKS, system)["Kata configuration"].found.startswith("/option.toml, containerd's runtime kata; ")
    system = attrs.evolve(system, kata_conf_file="/variable.toml")
    assert look(CHECKS, system)["Kata configuration"].found.startswith("/variable.toml, KATA_CONF_FILE; ")


def test_they_are_looked_for_beside_where_a_link_leads(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = tmp_path / "there/config.d"
    (over / "directory").mkdir(parents=True)
    (over / "any-name").write_text(f'[hypervisor.qemu]\nkernel = "{over}"\n')
    (tmp_path / "there/configuration-qemu.toml").write_text("[hypervisor.qemu]\n")
    (tmp_path / "configuration.toml").symlink_to("there/configuration-qemu.toml")
    monkeypatch.setenv("KATA_CONF_FILE", str(tmp_path / "configuration.toml"))
    system = gather(settings)
    assert system.links[str(tmp_path / "configuration.toml")] == str(tmp_path / "there/configuration-qemu.toml")
    assert str(over / "any-name") in system.files
    assert system.unseen[str(over / "directory")] == "Is a directory"
    assert str(over) in system.existing
