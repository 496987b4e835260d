# SPDX-License-Identifier: Apache-2.0
"""The table of settings: one field of :class:`Settings` is one setting, everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import attrs

from kvtest.accelerator import AcceleratorChoice
from kvtest.capture import Capture
from kvtest.settings.limits import MOST_CPUS, SMALLEST_MEMORY
from kvtest.settings.values import (
    Choice,
    Choices,
    Context,
    File,
    Files,
    Kind,
    NameOrFile,
    NamesOrDirectories,
    Patterns,
    Program,
    Seconds,
    Text,
    WholeNumber,
)
from kvtest.start import AgentDisk, AgentStart, GuestStart, PodUse, ReadAhead
from kvtest.transport import EVERYWHERE, Transport

_METADATA = "kvtest.setting"

NONE = "none"
"""What stands for no value of a setting, in place of one that a file gives."""


class Setting(NamedTuple):
    """What is known of one setting.

    Args:
        name: The field of :class:`Settings`, and the key in ``kvtest.toml`` and ``[tool.kvtest]``.
        kind: Its type.
        default: The default as a user would write it, ``None`` where there is none, or what makes it from the
            environment.
        default_text: The default as documentation shows it.
        help: One sentence without a full stop, with a capital letter, as pytest's own options have it.
    """

    name: str
    kind: Kind[Any]
    default: str | Callable[[Mapping[str, str]], str] | None
    default_text: str
    help: str

    @property
    def flag(self) -> str:
        """The flag of ``kvtest run``."""
        return "--" + self.name.replace("_", "-")

    @property
    def pytest_flag(self) -> str:
        """The option of pytest."""
        return "--kvtest-" + self.name.replace("_", "-")

    @property
    def ini_key(self) -> str:
        """The key in pytest's ini file."""
        return "kvtest_" + self.name

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "KVTEST_" + self.name.upper()

    @property
    def optional(self) -> bool:
        """Whether ``None`` is a value; a flag, variable or ini key gives it with the word :data:`NONE`."""
        return self.default is None

    def default_value(self, context: Context) -> Any:
        """Return the typed default."""
        text = self.default(context.environ) if callable(self.default) else self.default
        return None if text is None else self.kind.check(self.kind.parse(text), context)

    def render(self, value: Any) -> str:
        """Return a value of this setting as a user would write it."""
        return NONE if value is None else self.kind.render(value)


def _cache_directory(environ: Mapping[str, str]) -> str:
    # XDG Base Directory Specification: a relative path in XDG_CACHE_HOME is invalid and to be ignored.
    base = environ.get("XDG_CACHE_HOME", "")
    return f"{base}/kvtest" if base.startswith("/") else "~/.cache/kvtest"


def _about(
    kind: Kind[Any],
    default: str | Callable[[Mapping[str, str]], str] | None,
    help: str,  # noqa: A002 - argparse, typer and pytest call it so
    *,
    default_text: str | None = None,
) -> Mapping[object, Any]:
    """Return the metadata of one field of :class:`Settings`."""
    shown = default_text if default_text is not None else default
    assert shown is None or isinstance(shown, str), "a computed default needs default_text"
    # attrs takes the name from the class body; Setting gets it when the table is made.
    return {_METADATA: (kind, default, shown or "none", help)}


@attrs.frozen(kw_only=True)
class Settings:
    """The value of every setting. Paths are absolute."""

    transport: tuple[Transport, ...] = attrs.field(
        metadata=_about(
            Choices(Transport, "transport"),
            ",".join(EVERYWHERE),
            "Transports to test: a list with commas, or the flag more than once; vhost-vsock needs the host's module",
        )
    )
    guest_kernel: tuple[str, ...] = attrs.field(
        metadata=_about(
            NamesOrDirectories("kernel"),
            "6.12",
            "Kernel of the guest: a name from images/kernels.toml, or path: and a directory with a kernel; "
            "with several of them, each test runs once with each",
        )
    )
    guest_image: str = attrs.field(metadata=_about(Text("RECIPE"), "guest", "Recipe of the guest's root file system"))
    lab_image: str = attrs.field(
        metadata=_about(
            Text("RECIPE"),
            "lab",
            "Recipe of the root file system of lab hosts: lab, lab-trixie or lab-forky, whose distribution it chooses, "
            "and with it QEMU",
        )
    )
    agent: Path | None = attrs.field(
        metadata=_about(
            File(),
            None,
            "Guest agent under test: the path of a program such as kata-agent, for x86-64, that runs in our image",
            default_text="the reference agent",
        )
    )
    agent_start: AgentStart | None = attrs.field(
        metadata=_about(
            Choice(AgentStart, "start"),
            None,
            "What the agent is in our image: a service beside kvtest's control daemon, or init, the first process",
            default_text="the recipe's, which is service",
        )
    )
    agent_kernel: Path | None = attrs.field(
        metadata=_about(
            File(),
            None,
            "Kernel, a bzImage or vmlinux, of a whole guest under test, whose agent is in agent_initrd or agent_image",
        )
    )
    agent_initrd: Path | None = attrs.field(
        metadata=_about(File(), None, "Initrd of a whole guest under test, such as Kata's, to boot with agent_kernel")
    )
    agent_image: Path | None = attrs.field(
        metadata=_about(
            File(),
            None,
            "Disk image of a whole guest under test, such as Kata's, to boot with agent_kernel; it is not written to",
        )
    )
    agent_disk: AgentDisk = attrs.field(
        metadata=_about(
            Choice(AgentDisk, "disk"),
            AgentDisk.VIRTIO_BLK.value,
            "What agent_image is to its guest; the kernel has to have the driver built in",
        )
    )
    agent_address: str | None = attrs.field(
        metadata=_about(
            Text("ADDRESS"),
            None,
            "Guest agent under test that runs already: vsock://CID:PORT, hvsock://PATH:PORT, unix://PATH, "
            "unix://@NAME or serial://PATH",
        )
    )
    accelerator: AcceleratorChoice = attrs.field(
        metadata=_about(
            Choice(AcceleratorChoice, "accelerator"),
            AcceleratorChoice.AUTO.value,
            "What executes the guest; auto takes kvm where a guest really runs under it",
        )
    )
    guest_start: GuestStart = attrs.field(
        metadata=_about(
            Choice(GuestStart, "start"),
            GuestStart.CLONE.value,
            "How guests start: as clones of one that was frozen after its boot, or each with a boot of its own",
        )
    )
    read_ahead: ReadAhead = attrs.field(
        metadata=_about(
            Choice(ReadAhead, "read-ahead"),
            ReadAhead.AUTO.value,
            "Whether the next test's guest is started while a test runs; auto where each worker has two processors",
        )
    )
    qemu: str = attrs.field(metadata=_about(Program(), "qemu-system-x86_64", "QEMU: a program on PATH, or its path"))
    memory: int = attrs.field(
        metadata=_about(WholeNumber(minimum=SMALLEST_MEMORY, unit="MiB"), "256", "Memory of a guest in MiB")
    )
    cpus: int = attrs.field(metadata=_about(WholeNumber(minimum=1, maximum=MOST_CPUS), "1", "Processors of a guest"))
    cache: Path = attrs.field(
        metadata=_about(
            File(),
            _cache_directory,
            "Directory of built images and templates",
            default_text="$XDG_CACHE_HOME/kvtest or ~/.cache/kvtest",
        )
    )
    results: Path = attrs.field(metadata=_about(File(), "kvtest-results", "Directory that gets reports and artifacts"))
    requirements: tuple[Path, ...] = attrs.field(
        metadata=_about(
            Files(), "", "Directories with requirements besides those of the shipped suites", default_text="none"
        )
    )
    test_timeout: float = attrs.field(
        metadata=_about(
            Seconds(), "300", "Seconds that a test, or its fixtures before or after it, may take; then it fails"
        )
    )
    census_timeout: float = attrs.field(
        metadata=_about(Seconds(), "5", "Seconds after a test until what it has made must be gone from the host")
    )
    census_ignore: tuple[str, ...] = attrs.field(
        metadata=_about(
            Patterns(),
            "",
            "What a test may leave on the host: shell patterns of KIND:TEXT, such as descriptor:*/dev/urandom",
            default_text="none",
        )
    )
    capture: Capture = attrs.field(
        metadata=_about(
            Choice(Capture, "capture"),
            Capture.FAILED.value,
            "Which tests over vhost-vsock have their packets among their artifacts, as vsock.pcap; it needs root and "
            "the host's module vsockmon",
        )
    )
    runtime: str = attrs.field(
        metadata=_about(
            NameOrFile(), "reference", "Container runtime to test: the name of a profile, or the path of one"
        )
    )
    shim: str | None = attrs.field(
        metadata=_about(
            Program(),
            None,
            "Shim in place of the profile's: a program on PATH, or its path",
            default_text="the profile's",
        )
    )
    runtime_config: Path | None = attrs.field(
        metadata=_about(
            File(), None, "The runtime's configuration file, in place of the profile's", default_text="the profile's"
        )
    )
    pods_in_a_row: int | None = attrs.field(
        metadata=_about(
            WholeNumber(minimum=10),
            None,
            "How many pods the runtime ring makes and destroys one after another",
            default_text="100, or 10 of a runtime whose pods are virtual machines",
        )
    )
    pods: PodUse = attrs.field(
        metadata=_about(
            Choice(PodUse, "use of pods"),
            PodUse.SHARED.value,
            "Whether tests of the runtime ring that leave a pod as they found it share one, or each has its own",
        )
    )
    run_directory: Path | None = attrs.field(
        metadata=_about(
            File(), None, "Directory for sockets of running guests; its path has to be short", default_text="chosen"
        )
    )
    ssh_key: Path | None = attrs.field(
        metadata=_about(
            File(),
            None,
            "Private key for ssh:// hosts, in place of the agent's, those of ~/.ssh/config and the usual ones",
            default_text="as ssh",
        )
    )
    ssh_known_hosts: Path | None = attrs.field(
        metadata=_about(
            File(),
            None,
            "File with the keys of ssh:// hosts, in place of ~/.ssh/known_hosts and what ~/.ssh/config names",
            default_text="as ssh",
        )
    )
    mirror: str | None = attrs.field(
        metadata=_about(
            Text("URL"), None, "Package mirror that images are built from, in place of the distribution's own"
        )
    )
    boot_timeout: float = attrs.field(metadata=_about(Seconds(), "120", "Seconds that a guest may take to boot"))
    request_timeout: float = attrs.field(
        metadata=_about(Seconds(), "30", "Seconds that a guest may take to answer one request")
    )

    @property
    def kernel(self) -> str:
        """The guest kernel where only one can be: the first that was named."""
        return self.guest_kernel[0]


SETTINGS: Mapping[str, Setting] = {
    field.name: Setting(field.name, *field.metadata[_METADATA]) for field in attrs.fields(Settings)
}
"""Every setting by name, in the order of documentation."""


def markdown() -> str:
    """Return the table of settings as documentation shows it."""
    rows = [
        "| `kvtest.toml` | `kvtest run` | pytest | pytest ini | environment | default | meaning |",
        "|---|---|---|---|---|---|---|",
    ]
    for setting in SETTINGS.values():
        names = (setting.name, setting.flag, setting.pytest_flag, setting.ini_key, setting.variable)
        cells = [*(f"`{name}`" for name in names), setting.default_text, setting.help]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"
