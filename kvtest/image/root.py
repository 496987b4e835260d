# SPDX-License-Identifier: Apache-2.0
"""The root file system of a guest, and kvtest's own code in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from kvtest.cache import fingerprint
from kvtest.errors import ImageError, RecipeError
from kvtest.image import bootstrap, cpio
from kvtest.image.agent import AGENT_CODE, Agent
from kvtest.image.recipe import Recipe
from kvtest.ownership import run, temporary_directory
from kvtest.resources import package_directory
from kvtest.start import AgentStart

ROOT_FILE = "root.cpio"
CODE_FILE = "code.cpio"

_PACKAGES = "usr/lib/python3/dist-packages"
# Parts of the package that run in the guest; they import nothing but each other and the standard library.
_GUEST_CODE = ("guest", "rpc", "errors.py", "deadline.py")
_MOUNT_POINTS = ("dev", "proc", "sys", "run", "tmp", "root", "mnt")
_INIT = """#!/usr/bin/python3 -ISu
import sys
sys.path.append("/{packages}")
from kvtest.guest.{module} import main
main()
"""


def build_root(recipe: Recipe, mirror: str | None, scratch: Path, target: Path) -> dict[str, Any]:
    """Put the archive of a root file system into ``target``.

    Returns:
        For the manifest: the packages.
    """
    archive, packages = bootstrap.unpack(recipe.suite, recipe.packages, mirror, scratch)
    tree = scratch / "tree"
    bootstrap.extract(archive, tree, bootstrap.merged_root(recipe.remove))
    for name in bootstrap.MERGED:
        (tree / name).symlink_to(f"usr/{name}")
    for name, link in recipe.links.items():
        _link(tree, name, link)
    for name in _MOUNT_POINTS:
        (tree / name).mkdir(exist_ok=True)
    _busybox_links(tree)
    library = _python_library(tree)
    compile_sources(tree, library, f"/usr/lib/{library.name}")
    for source in library.rglob("*.py"):  # the guest runs the compiled files, in their place
        source.unlink()
    result = cpio.Archive()
    result.tree(tree)
    result.character_device("dev/console", 5, 1, mode=0o600)
    (target / ROOT_FILE).write_bytes(result.finish())
    return {"packages": packages}


def code_fingerprint(agent: Agent | None) -> str:
    """Return a digest of all the code that goes into guests with an agent, or without one."""
    code = [[str(name), path.read_bytes().hex()] for name, path in _code_files()]
    return fingerprint(_init(agent), code, *([] if agent is None else [agent.fingerprint()]))


def build_code(agent: Agent | None, root: bytes, scratch: Path, target: Path) -> dict[str, Any]:
    """Put an archive with kvtest's guest code into ``target``, compiled by the guest's own Python.

    Args:
        agent: The guest agent that goes with it.
        root: The archive of the root file system.
        scratch: A directory for intermediate files.
        target: Where the result goes.
    """
    tree, code = scratch / "tree", scratch / "code"
    cpio.extract(root, tree)
    package = code / _PACKAGES / "kvtest"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for name, path in _code_files():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, package / name)
    if agent is not None:
        agent.install(tree, code, code / _PACKAGES)
    compile_sources(tree, code / _PACKAGES, f"/{_PACKAGES}", beside_sources=True)
    archive = cpio.Archive()
    archive.tree(code)
    archive.file("init", _init(agent).encode(), mode=0o755)
    (target / CODE_FILE).write_bytes(archive.finish())
    return {}


def _init(agent: Agent | None) -> str:
    """Return what the kernel runs as the first process."""
    first = agent is not None and agent.start is AgentStart.INIT
    return _INIT.format(packages=_PACKAGES, module="agent_init" if first else "init")


def _code_files() -> list[tuple[Path, Path]]:
    base = package_directory()
    found = [base / part for part in _GUEST_CODE if part.endswith(".py")]
    found += [path for part in _GUEST_CODE if not part.endswith(".py") for path in (base / part).rglob("*.py")]
    named = [(path.relative_to(base), path) for path in found]
    return sorted((name, path) for name, path in named if not name.as_posix().startswith(AGENT_CODE))


def _link(tree: Path, name: str, target: str) -> None:
    """Make a symbolic link in a root file system, and nowhere else, wherever other links in it may lead."""
    place = tree / name
    for parent in [parent for parent in place.parents if parent.is_relative_to(tree)]:
        if parent.is_symlink() and not parent.resolve().is_relative_to(tree.resolve()):
            raise RecipeError(f"the link {name!r} would be made through {parent.name!r}, which leads out of the image")
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir() and not place.is_symlink():
        raise RecipeError(f"the link {name!r} would replace a directory of the image")
    place.unlink(missing_ok=True)
    place.symlink_to(target)


def _busybox_links(tree: Path) -> None:
    """Give busybox's applets their names where no other program has them."""
    busybox = tree / "usr/bin/busybox"
    if not busybox.exists():
        return
    applets = run([busybox, "--list"]).stdout.split()
    for applet in applets:
        if not any(os.path.lexists(tree / place / applet) for place in ("usr/bin", "usr/sbin")):
            (tree / "usr/bin" / applet).symlink_to("busybox")


def _python_library(tree: Path) -> Path:
    found = sorted((tree / "usr/lib").glob("python3.[0-9]*"))
    programs = [path for path in (tree / "usr/bin").glob("python3.[0-9]*") if not path.is_symlink()]
    if len(found) != 1 or len(programs) != 1 or not (tree / "usr/sbin/modprobe").exists():
        raise RecipeError(
            "a guest needs Python and modprobe, and this recipe leaves one of them out",
            hint="packages: python3-minimal, libpython3.N-stdlib, kmod; and see what `remove` matches",
        )
    return found[0]


def compile_sources(tree: Path, directory: Path, name: str, *, beside_sources: bool = False) -> None:
    """Compile Python sources with the Python of ``tree``, run by the tree's own loader: no chroot, no privileges.

    Args:
        tree: A root file system.
        directory: The sources.
        name: What they are called in the guest; goes into tracebacks.
        beside_sources: Keep to ``__pycache__``; otherwise compiled files take the place of sources.

    Raises:
        ImageError: One of them could not be compiled.
    """
    (loader,) = (tree / "usr/lib/x86_64-linux-gnu").glob("ld-linux-x86-64.so.2")
    (python,) = [path for path in (tree / "usr/bin").glob("python3.*") if not path.is_symlink()]
    libraries = f"{tree}/usr/lib/x86_64-linux-gnu"
    with temporary_directory(tree.parent, "empty-") as empty:
        result = run(
            [
                *(loader, "--library-path", libraries, python, "-BSs", "-m", "compileall", "-q", "-f"),
                *([] if beside_sources else ["-b"]),
                # The files never change in the guest, so their times need no checking.
                *("--invalidation-mode", "unchecked-hash", "-s", directory, "-p", name, directory),
            ],
            directory=empty,
            # The order of a set of constants in a compiled file follows the seed of hashes.
            environment={"PYTHONHOME": f"{tree}/usr", "PYTHONHASHSEED": "0"},
        )
    if result.status != 0:
        raise ImageError(f"the guest's Python could not compile {name}: {(result.stdout + result.stderr)[-2000:]}")
