# SPDX-License-Identifier: Apache-2.0
"""A guest agent in an image: the program, what it needs, and a root file system for its containers."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path

from attrs import frozen

from kvtest.cache import fingerprint
from kvtest.errors import ImageError, RecipeError
from kvtest.image.program import Program, read_program
from kvtest.resources import package_directory
from kvtest.start import AgentStart

REFERENCE = "reference"
#: Code that only guests with the reference agent get, below the package.
AGENT_CODE = ("guest/agent/", "rpc/api.py", "rpc/descriptors/")

#: Where the root file system for containers is in the guest.
CONTAINER_ROOT = "opt/kvtest/container"
_SERVICE = "etc/kvtest/agent.json"
_PROGRAM = "usr/lib/kvtest/agent"
_LIBRARIES = "usr/lib/kvtest/libraries"
_LAUNCHER = """#!/usr/bin/python3 -ISu
import sys
sys.path.append("/usr/lib/python3/dist-packages")
from kvtest.guest.agent.main import main
main()
"""
_CONTAINER_DIRECTORIES = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp")


@frozen
class Agent:
    """The agent of an image.

    Args:
        program: Somebody else's; ``None`` for the reference agent.
        start: What it is in its guest.
    """

    program: Program | None
    start: AgentStart = AgentStart.SERVICE

    def fingerprint(self) -> str:
        """Return what tells it from every other."""
        files = [[name, path.read_bytes().hex()] for name, path in (*_own_code(), *_protobuf())]
        program = _LAUNCHER if self.program is None else self.program.digest
        return fingerprint(_CONTAINER_DIRECTORIES, program, self.name, self.start, files)

    def install(self, tree: Path, layer: Path, packages: Path) -> None:
        """Put it into a layer.

        Args:
            tree: The root file system that the layer comes on top of.
            layer: Gets the files.
            packages: The directory for Python packages in it.

        Raises:
            ImageError: The image has not what containers need.
        """
        program = layer / _PROGRAM
        program.parent.mkdir(parents=True)
        argv = [f"/{_PROGRAM}"]
        for name, path in (*_own_code(), *_protobuf()):
            (packages / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, packages / name)
        if self.program is None:
            program.write_text(_LAUNCHER)
        else:
            shutil.copyfile(self.program.path, program)
            if self.program.loader is not None:
                libraries = layer / _LIBRARIES
                libraries.mkdir()
                for library in self.program.libraries:
                    shutil.copyfile(library, libraries / library.name)
                shutil.copyfile(self.program.loader, libraries / self.program.loader.name)
                (libraries / self.program.loader.name).chmod(0o755)
                argv = [f"/{_LIBRARIES}/{self.program.loader.name}", "--library-path", f"/{_LIBRARIES}", *argv]
        program.chmod(0o755)
        service = layer / _SERVICE
        service.parent.mkdir(parents=True)
        service.write_text(json.dumps({"argv": argv, "name": self.name}))
        _container_root(tree, layer / CONTAINER_ROOT)

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return "the reference agent" if self.program is None else str(self.program.path)


def find_agent(name: str | None, start: AgentStart = AgentStart.SERVICE) -> Agent | None:
    """Return the agent that a recipe names.

    Args:
        name: ``reference``, the path of a program, or ``None``.
        start: What it is to be in its guest.

    Raises:
        RecipeError: The program cannot run in a guest; the message says why.
    """
    if name is None:
        return None
    if name == REFERENCE:
        return Agent(None, start)
    path = Path(name).expanduser()
    if not path.is_absolute():
        raise RecipeError(f"the agent {name!r} is neither {REFERENCE!r} nor an absolute path")
    return Agent(read_program(path), start)


def _own_code() -> list[tuple[str, Path]]:
    base = package_directory()
    files = [
        path for name in AGENT_CODE for path in ((base / name).rglob("*") if name.endswith("/") else [base / name])
    ]
    return sorted((f"kvtest/{path.relative_to(base).as_posix()}", path) for path in files if _is_code(path))


def _protobuf() -> list[tuple[str, Path]]:
    """Return the modules of protobuf, those of the environment that builds the image: guests have no newer one."""
    found = []
    for file in metadata.files("protobuf") or []:
        wanted = file.parts[:2] in (("google", "protobuf"), ("google", "_upb")) and "testdata" not in file.parts
        path = Path(str(file.locate()))
        if wanted and _is_code(path) and not {"compiler", "util", "pyext"} & set(file.parts):
            found.append((file.as_posix(), path))
    if not found:
        raise ImageError("the files of the Python package protobuf were not found", hint="pip install protobuf")
    return sorted(found)


def _is_code(path: Path) -> bool:
    return path.suffix in (".py", ".so", ".binpb") and path.is_file()


def _container_root(tree: Path, root: Path) -> None:
    """Make the root file system that containers of the suites have: busybox under all of its names."""
    busybox = tree / "usr/bin/busybox"
    if not busybox.is_file():
        raise ImageError("an image with an agent needs busybox for its containers", hint="packages: busybox-static")
    for name in _CONTAINER_DIRECTORIES:
        (root / name).mkdir(parents=True)
    shutil.copyfile(busybox, root / "bin/busybox")
    (root / "bin/busybox").chmod(0o755)
    for link in sorted((tree / "usr/bin").iterdir()):
        if link.is_symlink() and link.readlink().name == "busybox" and link.name != "busybox":
            (root / "bin" / link.name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nnobody:x:65534:\n")
