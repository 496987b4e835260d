# SPDX-License-Identifier: Apache-2.0
"""Looking at this machine, whatever it is."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from kvtest.doctor import facts
from kvtest.doctor import gather as gathering
from kvtest.doctor.device import reservation_problem
from kvtest.doctor.gather import gather
from kvtest.doctor.programs import ask
from kvtest.errors import MissingToolError, SettingError
from kvtest.runtime import installation, preflight
from kvtest.settings import Settings


def script(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_this_machine(settings: Settings) -> None:
    system = gather(settings)
    assert system.kernel == platform.release()
    assert system.kernel_version >= (3, 0)
    assert system.root == (os.geteuid() == 0)
    assert system.cpu_flags
    assert "virtio-serial-pci" in system.qemu.devices
    assert (system.room.memory or 0) > 1 << 20
    assert system.vhost_vsock.exists == Path("/dev/vhost-vsock").exists()
    assert system.unseen == {}


def test_what_cannot_be_looked_at_is_noted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    for name in ("dmi", "cpu_flags", "modules", "configuration", "parameters"):
        monkeypatch.setattr(facts, name, refuse)
    for name in ("_free", "available_memory", "ask_all"):
        monkeypatch.setattr(gathering, name, refuse)
    system = gather(settings)
    assert system.kernel == platform.release()
    assert system.unseen["the processor"] == "PermissionError: [Errno 13] Permission denied"
    assert {"programs", "DMI sys_vendor", "the kernel's modules", "free memory"} <= set(system.unseen)


def test_a_program_tells_its_version(tmp_path: Path) -> None:
    path = script(tmp_path / "kata-ctl", "#!/bin/sh\necho kata-ctl 3.23.0\n")
    (tmp_path / "link").symlink_to(path)
    found = ask("kata-ctl", str(tmp_path / "link"), "--version")
    assert (found.version, found.problem, found.target) == ("3.23.0", None, path)


def test_a_program_that_hangs_has_a_deadline(tmp_path: Path) -> None:
    found = ask("runc", script(tmp_path / "runc", "#!/bin/sh\nexec tail -f /dev/null\n"), "--version", within=0.2)
    assert found.problem is not None
    assert found.version is None


@pytest.mark.parametrize(
    ("text", "problem"), [("#!/bin/sh\necho one; echo broken >&2; exit 3\n", "exit status 3: "), ("\x7fELF no", "")]
)
def test_a_program_that_fails(tmp_path: Path, text: str, problem: str) -> None:
    found = ask("runc", script(tmp_path / "runc", text), "--version")
    assert found.problem is not None
    assert found.problem.startswith(problem)
    assert "\n" not in found.problem


def test_shims_are_found_in_order_and_once(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "containerd-shim-kata-v2"
    for directory, version in ("first", "3.1.0"), ("second", "3.2.0"), ("told", "3.3.0"):
        (tmp_path / directory).mkdir()
        script(tmp_path / directory / name, f"#!/bin/sh\necho 'containerd shim (Golang): version: {version}'\n")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / name).symlink_to(tmp_path / "first" / name)
    told = tmp_path / "told" / name
    dump = f'[plugins.cri.containerd.runtimes.kata]\nruntime_type = "io.containerd.kata.v2"\nruntime_path = "{told}"'
    script(tmp_path / "first" / "containerd", f"#!/bin/sh\ncat <<'END'\n{dump}\nEND\n")
    directories = [str(tmp_path / directory) for directory in ("first", "linked", "second")]
    monkeypatch.setenv("PATH", ":".join([*directories, os.environ["PATH"]]))
    found = gather(settings).found(name)
    assert [(shim.version, shim.on_path) for shim in found] == [("3.1.0", True), ("3.2.0", True), ("3.3.0", False)]


def test_files_that_may_not_be_read(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "configuration.toml"
    path.mkdir()  # reads as root, too, what permissions would not keep from it
    monkeypatch.setenv("KATA_CONF_FILE", str(path))
    system = gather(settings)
    assert system.kata_conf_file == str(path)
    assert system.unseen == {str(path): "Is a directory"}


def test_which_named_paths_are_there(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "configuration.toml"
    path.write_text(f'kernel = "{tmp_path}/absent"\nimage = "{path}"\n')
    monkeypatch.setenv("KATA_CONF_FILE", str(path))
    system = gather(settings)
    assert system.files[str(path)] == path.read_text()
    assert str(path) in system.existing
    assert f"{tmp_path}/absent" not in system.existing


def refuse_with(error: Exception) -> Callable[[Settings], None]:
    def refuse(_settings: Settings) -> None:
        raise error

    return refuse


def test_whether_the_machine_lacks_the_runtime(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "find", lambda _settings: None)
    assert not gather(settings).without_runtime
    monkeypatch.setattr(installation, "find", refuse_with(MissingToolError("there is no mkfs.erofs")))
    assert gather(settings).without_runtime
    monkeypatch.setattr(installation, "find", refuse_with(SettingError("no file")))  # a run says so, and ends
    assert not gather(settings).without_runtime


def test_containerd_is_started(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = tmp_path / "tried"
    said = "echo level=info msg=starting; echo level=fatal msg='no room'; exit 1"
    program = script(tmp_path / "containerd", f'#!/bin/sh\n[ "$1" = --config ] || exit 0\ntouch {tried}\n{said}\n')
    monkeypatch.setattr(preflight, "find", lambda _settings: None)
    monkeypatch.setattr(preflight, "find_containerd", lambda: Path(program))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    problem = gather(settings).containerd_problem or ""
    assert problem.startswith(f"{program} did not start: ")
    assert problem.endswith(" level=fatal msg=no room")
    tried.unlink()
    script(tmp_path / "containerd", f'#!/bin/sh\n[ "$1" = --config ] || exit 1\ntouch {tried}\n')
    system = gather(settings)
    assert system.found("containerd")[0].problem == "exit status 1"
    assert system.containerd_problem is None
    assert not tried.exists()


def test_a_device_is_tried(tmp_path: Path) -> None:
    assert reservation_problem(str(tmp_path / "absent")) == "does not open: No such file or directory"
    assert reservation_problem(str(tmp_path)) == "does not open: Is a directory"
    # A node that is there, and does not do what vhost-vsock does.
    assert reservation_problem("/dev/null") == "opens, but reserves no CID: Inappropriate ioctl for device"
