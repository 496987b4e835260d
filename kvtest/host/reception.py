# SPDX-License-Identifier: Apache-2.0
"""How an attendant is started on another machine, and whether kvtest can run there."""

from __future__ import annotations

import contextlib
import platform
import re
import shlex
import sys
from importlib import resources

import attrs
import paramiko

from kvtest.errors import HostError, MissingToolError
from kvtest.host import cargo
from kvtest.host.frames import Header
from kvtest.host.link import Link
from kvtest.host.ssh_address import SSHAddress

_PARTS = ("frames", "depot", "evidence", "attended_run", "attendant")
_NO_PYTHON, _OTHER_PYTHON = 127, 3
# Within what every login shell leaves as it is: there is no quote in it but the two around it.
_COMMAND = (
    "sh -c 'for p in python{major}.{minor} python3; do command -v $p >/dev/null 2>&1 && exec $p -I -S -c "
    '"import sys; sys.version_info[:2] == ({major}, {minor}) or (print(sys.version.split()[0]), sys.exit({other})); '
    "exec(sys.stdin.buffer.read({size}))\" {silence} {qemu}; done; exit {none}'"
)
_QEMU = re.compile(r"[\w./+~-]+")


@attrs.frozen
class Machine:
    """What is to be known of another machine.

    Args:
        node: Its name.
        machine: Its kind of processor.
        tag: What compiled modules of its Python are called.
        python: The version of its Python.
        libc: Name and version of its C library.
        qemu: SHA-256 of its QEMU; ``None`` where it has none.
        kvm: Whether the user there may use KVM.
        base: The directory of the user there that keeps what is brought.
    """

    node: str
    machine: str
    tag: str
    python: str
    libc: tuple[str, str]
    qemu: str | None
    kvm: bool
    base: str

    @classmethod
    def of(cls, hello: Header) -> Machine:
        """Return what an attendant has said in greeting."""
        told = {name: hello[name] for name in attrs.fields_dict(cls)}
        return cls(**{**told, "libc": tuple(told["libc"])})


def receive_at(client: paramiko.SSHClient, address: SSHAddress, qemu: str, silence: float) -> tuple[Link, Machine]:
    """Start an attendant.

    Args:
        client: The connection.
        address: Where it goes.
        qemu: QEMU there: a name on ``PATH``, or a path.
        silence: Seconds without a word after which the connection counts as lost.

    Raises:
        MissingToolError: There is no Python of our version there.
        HostError: It did not start.
        HostLostError: The connection is lost.
    """
    if not _QEMU.fullmatch(qemu):
        raise HostError(f"{address.text}: {qemu!r} cannot be named to a shell there", hint="give it a simpler path")
    transport = client.get_transport()
    assert transport is not None
    code = _attendant()
    major, minor = sys.version_info[:2]
    command = _COMMAND.format(
        major=major,
        minor=minor,
        other=_OTHER_PYTHON,
        none=_NO_PYTHON,
        size=len(code),
        silence=silence,
        qemu=qemu,
    )
    channel = transport.open_session()
    channel.exec_command(command)
    link = Link(channel, address.name, silence)
    with contextlib.suppress(OSError):  # it has ended already, and says why
        channel.sendall(code)
    hello = link.greet()
    if hello is None:
        raise _unwelcome(address, link)
    if "failed" in hello:
        raise refusal(address, hello)
    return link, Machine.of(hello)


def check(address: SSHAddress, there: Machine, qemu: str) -> None:
    """Check that what is brought can run there.

    Args:
        address: Where it is.
        there: What is known of it.
        qemu: The QEMU that was looked for.

    Raises:
        MissingToolError: There is no QEMU.
        HostError: It is another kind of machine.
    """
    name = address.machine
    ours = (platform.machine(), sys.implementation.cache_tag, platform.libc_ver()[0])
    for seen, here in zip((there.machine, there.tag, there.libc[0]), ours, strict=True):
        if seen != here:
            raise HostError(
                f"{address.text}: {name} has {seen or 'another C library'}, and what kvtest brings is for {here}",
                hint="run kvtest from a machine of the same kind, or install it there and run it there",
            )
    needed = cargo.needed_libc()
    if _version(there.libc[1]) < needed:
        raise HostError(
            f"{address.text}: {name} has glibc {there.libc[1]}, and what kvtest brings needs {needed[0]}.{needed[1]}",
            hint="install kvtest there and run it there: pip chooses packages that fit",
        )
    if there.qemu is None:
        raise MissingToolError(
            f"{address.text}: {name} has no QEMU ({qemu} was looked for)",
            hint=f"on {name}: apt-get install --no-install-recommends qemu-system-x86",
        )


def _attendant() -> bytes:
    """Return a program that is the attendant with all that it imports of kvtest."""
    package = resources.files("kvtest.host")
    texts = {f"kvtest.host.{part}": (package / f"{part}.py").read_text() for part in _PARTS}
    return (
        "import sys, types\n"
        f"for name, text in {texts!r}.items():\n"
        "    module = sys.modules[name] = types.ModuleType(name)\n"
        "    exec(compile(text, name, 'exec'), module.__dict__)\n"
        "module.main(sys.argv[1:])\n"
    ).encode()


def _unwelcome(address: SSHAddress, link: Link) -> HostError:
    status, said = link.exit_status(), link.complaint()
    name, wanted = address.machine, f"{sys.version_info[0]}.{sys.version_info[1]}"
    install = f"on {name}: apt-get install --no-install-recommends python{wanted}"
    if status == _NO_PYTHON:
        return MissingToolError(f"{address.text}: {name} has no Python", hint=install)
    if status == _OTHER_PYTHON:
        return MissingToolError(
            f"{address.text}: {name} has Python {link.noise}, and what kvtest brings is built for {wanted}",
            hint=f"{install}; or run kvtest here with the version that is there",
        )
    said = said or link.noise or "without a word"
    trial = shlex.join(["ssh", "-p", str(address.port), f"{address.user}@{name}", "python3 --version"])
    return HostError(
        f"{address.text}: kvtest's part on {name} ended with status {status}: {said}", hint=f"does `{trial}` work?"
    )


def refusal(address: SSHAddress, answer: Header) -> HostError:
    """Return the error for an attendant's answer that it could not do something.

    Args:
        address: Where it is.
        answer: The answer.
    """
    if answer.get("full"):
        return HostError(
            f"{address.text}: there is not enough room on {address.machine}: {answer['failed']}",
            hint="free some there, or set XDG_CACHE_HOME of the user there to a place that has some",
        )
    return HostError(
        f"{address.text}: {address.machine} could not do its part: {answer['failed']}",
        hint="may the user there write to that place? XDG_CACHE_HOME of the user there chooses another",
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])
