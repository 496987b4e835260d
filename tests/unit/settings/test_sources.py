# SPDX-License-Identifier: Apache-2.0
"""Precedence, origins and mistakes of settings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import pytest

from kvtest.accelerator import AcceleratorChoice
from kvtest.capture import Capture
from kvtest.errors import SettingError
from kvtest.settings import SETTINGS, LoadedSettings, Setting, Settings, Source, load, markdown
from kvtest.start import AgentDisk, AgentStart, GuestStart, PodUse, ReadAhead
from kvtest.transport import Transport

HOME = {"HOME": "/home/somebody"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a directory in which the search for files ends, with a space and a letter beyond ASCII in its name."""
    directory = tmp_path / "a projéct"
    (directory / ".git").mkdir(parents=True)
    return directory


def load_in(
    directory: Path,
    flags: Mapping[str, str | Sequence[str] | None] | None = None,
    environ: Mapping[str, str] | None = None,
    ini: Mapping[str, str | None] | None = None,
    ini_file: Path | None = None,
) -> LoadedSettings:
    return load(flags or {}, HOME | dict(environ or {}), ini or {}, directory, ini_file=ini_file)


def refused(
    directory: Path,
    flags: Mapping[str, str | Sequence[str] | None] | None = None,
    environ: Mapping[str, str] | None = None,
    ini: Mapping[str, str | None] | None = None,
) -> str:
    with pytest.raises(SettingError) as caught:
        load_in(directory, flags, environ, ini)
    return str(caught.value)


# --- Defaults


def test_defaults(project: Path) -> None:
    loaded = load_in(project)
    assert loaded.settings == Settings(
        transport=(Transport.VHOST_USER_VSOCK, Transport.VIRTIO_SERIAL),
        guest_kernel=("6.12",),
        guest_image="guest",
        lab_image="lab",
        agent=None,
        agent_start=None,
        agent_kernel=None,
        agent_initrd=None,
        agent_image=None,
        agent_disk=AgentDisk.VIRTIO_BLK,
        agent_address=None,
        accelerator=AcceleratorChoice.AUTO,
        guest_start=GuestStart.CLONE,
        read_ahead=ReadAhead.AUTO,
        qemu="qemu-system-x86_64",
        memory=256,
        cpus=1,
        cache=Path("/home/somebody/.cache/kvtest"),
        results=project / "kvtest-results",
        capture=Capture.FAILED,
        runtime="reference",
        shim=None,
        runtime_config=None,
        pods_in_a_row=None,
        pods=PodUse.SHARED,
        run_directory=None,
        ssh_key=None,
        ssh_known_hosts=None,
        mirror=None,
        boot_timeout=120.0,
        request_timeout=30.0,
        test_timeout=300.0,
        census_timeout=5.0,
        census_ignore=(),
        requirements=(),
    )
    assert {origin.source for origin in loaded.origins.values()} == {Source.DEFAULT}
    assert loaded.report_lines() == []


def test_cache_follows_the_xdg_specification(project: Path) -> None:
    assert load_in(project, environ={"XDG_CACHE_HOME": "/xdg"}).settings.cache == Path("/xdg/kvtest")
    relative = load_in(project, environ={"XDG_CACHE_HOME": "xdg"})
    assert relative.settings.cache == Path("/home/somebody/.cache/kvtest")


# --- Precedence and origin


def test_each_place_overrides_the_next(project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.kvtest]\nmemory = 301\n")
    (project / "kvtest.toml").write_text("memory = 302\n")
    ini_file = project / "pytest.ini"
    places: list[tuple[str, Source, str]] = [
        ("305", Source.FLAG, "--kvtest-memory"),
        ("304", Source.ENVIRONMENT, "KVTEST_MEMORY"),
        ("303", Source.INI, f"kvtest_memory in {ini_file}"),
        ("302", Source.FILE, f"memory in {project / 'kvtest.toml'}"),
        ("301", Source.PROJECT, f"tool.kvtest.memory in {project / 'pyproject.toml'}"),
    ]
    for number, (text, source, name) in enumerate(places):
        flags = {"memory": "305"} if number < 1 else {}
        environ = {"KVTEST_MEMORY": "304"} if number < 2 else {}
        ini = {"memory": "303"} if number < 3 else {}
        if number == 4:
            (project / "kvtest.toml").unlink()
        loaded = load_in(project, flags, environ, ini, ini_file)
        assert loaded.settings.memory == int(text)
        assert loaded.origins["memory"].source is source
        assert loaded.report_lines() == [f"memory = {text}  ({name})"]


def test_absent_flags_and_empty_variables_do_not_count(project: Path) -> None:
    loaded = load_in(
        project, {"memory": None, "transport": []}, {"KVTEST_CPUS": "", "KVTEST_MIRROR": ""}, {"qemu": None}
    )
    assert loaded.report_lines() == []


def test_none_takes_an_optional_value_away(project: Path) -> None:
    (project / "kvtest.toml").write_text('mirror = "http://mirror.example"\n')
    assert load_in(project).settings.mirror == "http://mirror.example"
    loaded = load_in(project, {"mirror": "none"})
    assert loaded.settings.mirror is None
    assert loaded.report_lines() == ["mirror = none  (--kvtest-mirror)"]
    with pytest.raises(SettingError, match="--kvtest-mirror: the value is empty"):
        load_in(project, {"mirror": ""})


def test_the_flag_is_named_as_it_was_typed(project: Path) -> None:
    loaded = load({"guest_kernel": "6.1"}, HOME, {}, project, flag_prefix="--")
    assert str(loaded.origins["guest_kernel"]) == "--guest-kernel"


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: setting.name)
def test_every_setting_can_be_given_in_every_place(project: Path, setting: Setting) -> None:
    name = setting.name
    loaded = load_in(project, {name: SETTINGS[name].render(_other_value(name))})
    by_flag = getattr(loaded.settings, name)
    text = SETTINGS[name].render(by_flag)
    assert by_flag != getattr(load_in(project).settings, name)
    assert getattr(load_in(project, environ={SETTINGS[name].variable: text}).settings, name) == by_flag
    assert getattr(load_in(project, ini={name: text}).settings, name) == by_flag
    value = text if isinstance(by_flag, int | float) and not isinstance(by_flag, str) else f'"{text}"'
    (project / "kvtest.toml").write_text(f"{name} = {value}\n")
    assert getattr(load_in(project).settings, name) == by_flag
    (project / "kvtest.toml").rename(project / "pyproject.toml")
    (project / "pyproject.toml").write_text(f"[tool.kvtest]\n{name} = {value}\n")
    assert getattr(load_in(project).settings, name) == by_flag


def _other_value(name: str) -> object:
    return {
        "transport": (Transport.VIRTIO_SERIAL,),
        "accelerator": AcceleratorChoice.TCG,
        "guest_start": GuestStart.BOOT,
        "agent_start": AgentStart.INIT,
        "agent_disk": AgentDisk.NVME,
        "read_ahead": ReadAhead.OFF,
        "memory": 512,
        "cpus": 2,
        "pods_in_a_row": 30,
        "capture": "always",
        "pods": "own",
        "boot_timeout": 7.5,
        "request_timeout": 8,
        "test_timeout": 7,
        "census_timeout": 9,
        "census_ignore": ("process:*",),
        "requirements": (Path("/a"), Path("/b")),
        "cache": Path("/other"),
        "results": Path("/other"),
        "run_directory": Path("/other"),
    }.get(name, "other")


def test_directories_of_requirements_are_relative_to_where_they_are_written(project: Path) -> None:
    (project / "kvtest.toml").write_text('requirements = ["ours", "/theirs"]\n')
    inner = project / "inner"
    inner.mkdir()
    assert load_in(inner).settings.requirements == (project / "ours", Path("/theirs"))
    assert load_in(inner, {"requirements": ["a", "b,a"]}).settings.requirements == (inner / "a", inner / "b")
    (project / "kvtest.toml").write_text("requirements = [1]\n")
    assert "not a list of texts" in refused(inner)


# --- Transports


@pytest.mark.parametrize(
    "given",
    ["virtio-serial,vhost-user-vsock", ["virtio-serial", "vhost-user-vsock"], " virtio-serial , vhost-user-vsock,"],
)
def test_transports_keep_their_order(project: Path, given: str | list[str]) -> None:
    loaded = load_in(project, {"transport": given})
    assert loaded.settings.transport == (Transport.VIRTIO_SERIAL, Transport.VHOST_USER_VSOCK)


def test_transports_are_a_list_in_toml(project: Path) -> None:
    (project / "kvtest.toml").write_text('transport = ["virtio-serial", "virtio-serial"]\n')
    assert load_in(project).settings.transport == (Transport.VIRTIO_SERIAL,)


# --- Files


def test_the_nearest_file_upward_counts(project: Path) -> None:
    inner = project / "suites" / "deep"
    inner.mkdir(parents=True)
    (project / "kvtest.toml").write_text('results = "out"\ncpus = 4\n')
    assert load_in(inner).settings.results == project / "out"
    (project / "suites" / "kvtest.toml").write_text('results = "out"\n')
    loaded = load_in(inner)
    assert loaded.settings.results == project / "suites" / "out"
    assert loaded.settings.cpus == 1


def test_the_search_ends_at_the_repository(project: Path) -> None:
    (project.parent / "kvtest.toml").write_text("cpus = 4\n")
    (project.parent / "pyproject.toml").write_text("[tool.kvtest]\ncpus = 8\n")
    assert load_in(project).settings.cpus == 1


def test_a_project_without_our_table_is_passed_over(project: Path) -> None:
    inner = project / "package"
    inner.mkdir()
    (inner / "pyproject.toml").write_text('[project]\nname = "mentions-kvtest"\n')
    (project / "pyproject.toml").write_text("[tool.kvtest]\ncpus = 8\n")
    assert load_in(inner).settings.cpus == 8


def test_paths_are_relative_to_their_file(project: Path) -> None:
    configuration = project / "configuration"
    configuration.mkdir()
    (project / "kvtest.toml").write_text('cache = "~/c"\nqemu = "./build/qemu"\nguest_kernel = "path:linux"\n')
    loaded = load_in(project, {"run_directory": "r"}, {}, {"results": "../out"}, configuration / "pytest.ini")
    assert loaded.settings.cache == Path("/home/somebody/c")
    assert loaded.settings.qemu == str(project / "build/qemu")
    assert loaded.settings.guest_kernel == (f"path:{project / 'linux'}",)
    assert loaded.settings.run_directory == project / "r"
    assert loaded.settings.results == configuration / "../out"


# --- Mistakes


@pytest.mark.parametrize(
    ("name", "text", "seen", "hint"),
    [
        ("memory", "lots", "'lots' is not a whole number", "a whole number of 192 or more, in MiB"),
        ("memory", "1.5", "'1.5' is not a whole number", "a whole number of 192 or more, in MiB"),
        ("memory", "8", "8 is too small", "at least 192 MiB"),
        ("cpus", "0", "0 is too small", "at least 1"),
        ("cpus", "500", "500 is too large", "at most 255"),
        ("boot_timeout", "soon", "'soon' is not a number of seconds", "a number, such as 30 or 2.5"),
        ("boot_timeout", "0", "0.0 is not a usable number of seconds", "a number from 0 to 1000000"),
        ("boot_timeout", "nan", "nan is not a usable number of seconds", "a number from 0 to 1000000"),
        ("boot_timeout", "inf", "inf is not a usable number of seconds", "a number from 0 to 1000000"),
        ("accelerator", "kvn", "there is no accelerator 'kvn'", "did you mean 'kvm'? known: auto, kvm, tcg"),
        ("accelerator", "hypervisor", "there is no accelerator 'hypervisor'", "known: auto, kvm, tcg"),
        (
            "transport",
            "vhost-user-vsok",
            "there is no transport 'vhost-user-vsok'",
            "did you mean 'vhost-user-vsock'? known: vhost-user-vsock, vhost-vsock, virtio-serial",
        ),
        ("transport", ",", "no transport is named", "at least one of: vhost-user-vsock, vhost-vsock, virtio-serial"),
        (
            "results",
            "~nobody-of-this-name/x",
            "'~nobody-of-this-name/x' names the home of a user who does not exist",
            "",
        ),
        ("results", "a\0b", "'a\\x00b' is not a path", ""),
    ],
)
def test_a_bad_value_is_named_with_its_place(project: Path, name: str, text: str, seen: str, hint: str) -> None:
    setting = SETTINGS[name]
    ending = f": {seen}\n  hint: {hint}" if hint else f": {seen}"
    assert refused(project, {name: text}) == setting.pytest_flag + ending
    assert refused(project, environ={setting.variable: text}) == setting.variable + ending
    assert refused(project, ini={name: text}) == setting.ini_key + ending


@pytest.mark.parametrize("name", ["guest_kernel", "results", "qemu", "guest_image"])
def test_a_value_that_must_not_be_empty(project: Path, name: str) -> None:
    assert refused(project, {name: ""}).startswith(SETTINGS[name].pytest_flag + ": ")


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ('memory = "256"', "'256' is not a whole number"),
        ("memory = true", "True is not a whole number"),
        ("memory = 256.0", "256.0 is not a whole number"),
        ("boot_timeout = true", "True is not a number of seconds"),
        ("guest_kernel = 6.12", "6.12 is not a string"),
        ("results = 1", "1 is not a path"),
        ("transport = 1", "1 is not a list"),
        ("transport = []", "no transport is named"),
        ('transport = ["vsock"]', "there is no transport 'vsock'"),
        ("transport = [1]", "there is no transport 1"),
        ("accelerator = { kvm = true }", "there is no accelerator {'kvm': True}"),
    ],
)
def test_toml_values_need_their_type(project: Path, line: str, seen: str) -> None:
    file = project / "kvtest.toml"
    file.write_text(line + "\n")
    assert refused(project).startswith(f"{line.split(maxsplit=1)[0]} in {file}: {seen}")


def test_an_overridden_mistake_is_still_one(project: Path) -> None:
    (project / "kvtest.toml").write_text("cpus = 0\n")
    assert "0 is too small" in refused(project, {"cpus": "2"})


def test_unknown_keys_have_a_nearest_neighbour(project: Path) -> None:
    file = project / "kvtest.toml"
    file.write_text('guest-kernel = "6.1"\n')
    assert refused(project) == f"unknown key guest-kernel in {file}\n  hint: did you mean 'guest_kernel'?"
    file.unlink()
    file = project / "pyproject.toml"
    file.write_text("[tool.kvtest]\nmemroy = 1\n")
    assert refused(project) == f"unknown key tool.kvtest.memroy in {file}\n  hint: did you mean 'memory'?"
    file.write_text("[tool]\nkvtest = 1\n")
    assert refused(project).startswith(f"tool.kvtest in {file} is not a table")


def test_unknown_variables_and_flags(project: Path) -> None:
    assert refused(project, environ={"KVTEST_TRANSPORTS": "x"}) == (
        "unknown environment variable KVTEST_TRANSPORTS\n  hint: did you mean 'KVTEST_TRANSPORT'?"
    )
    assert load_in(project, environ={"_KVTEST_ANYTHING": "x", "KVTESTS": "x"}).report_lines() == []
    assert refused(project, {"cpu": "1"}) == "unknown flag --kvtest-cpu\n  hint: did you mean 'cpus'?"


def test_files_that_cannot_be_read(project: Path) -> None:
    file = project / "kvtest.toml"
    file.write_text("memory = \n")
    assert refused(project).startswith(f"{file} is not valid TOML: ")
    file.write_bytes(b"# \xff\n")
    assert refused(project).startswith(f"{file} is not UTF-8: byte 2")
    file.unlink()
    file.mkdir()
    assert refused(project) == f"cannot read {file}: Is a directory"


# --- Documentation and imports


def test_documentation_names_every_setting() -> None:
    lines = markdown().splitlines()
    assert len(lines) == 2 + len(attrs.fields(Settings))
    for line, setting in zip(lines[2:], SETTINGS.values(), strict=True):
        assert line.count("|") - line.count("\\|") == 8
        for name in (setting.flag, setting.pytest_flag, setting.ini_key, setting.variable):
            assert f"`{name}`" in line


def test_importing_and_loading_stays_light(project: Path) -> None:
    code = (
        "import sys, pathlib, attrs; before = set(sys.modules)\n"
        "import kvtest.settings as s; s.load({}, {'HOME': '/h'}, {}, pathlib.Path(sys.argv[1]))\n"
        "print(*sorted(name for name in set(sys.modules) - before if not name.startswith('kvtest')))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, project], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert set(child.stdout.split()) <= {"difflib", "heapq", "_heapq"}
