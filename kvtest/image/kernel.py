# SPDX-License-Identifier: Apache-2.0
"""A kernel image and the modules that guests need of it, dependencies resolved by kmod."""

from __future__ import annotations

import gzip
import lzma
import shutil
from pathlib import Path
from typing import Any

from attrs import frozen

from kvtest.errors import ImageError, RecipeError
from kvtest.image import bootstrap
from kvtest.image.cpio import Archive
from kvtest.image.recipe import Kernel, Modules
from kvtest.ownership import run

KERNEL_FILE = "vmlinuz"
MODULES_FILE = "modules.cpio"
LOAD_LIST = "etc/kvtest/modules"
ATTEMPT_LIST = "etc/kvtest/modules-attempted"

_INDEXES = ("modules.builtin", "modules.builtin.modinfo", "modules.order")


@frozen
class _Source:
    """Where a kernel's parts are: the image, and ``ROOT/lib/modules/RELEASE``."""

    image: Path
    root: Path
    release: str

    @property
    def modules(self) -> Path:
        return self.root / "lib/modules" / self.release


def build(kernel: Kernel, modules: Modules, mirror: str | None, scratch: Path, target: Path) -> dict[str, Any]:
    """Put a kernel image and an archive with its modules into ``target``.

    Args:
        kernel: The kernel.
        modules: The modules of the guest.
        mirror: Where packages come from.
        scratch: A directory for intermediate files.
        target: Where the results go.

    Returns:
        For the manifest: the release, the packages, and the modules that are loaded at boot.

    Raises:
        ImageError: There is no kernel in the package.
        RecipeError: There is none in the user's directory, or a module that guests need is missing.
    """
    packages: dict[str, str] = {}
    if kernel.path is None:
        assert kernel.suite is not None
        assert kernel.package is not None
        archive, packages = bootstrap.unpack(kernel.suite, [kernel.package], mirror, scratch)
        source = _unpacked(archive, scratch / "root", kernel.package)
    else:
        source = _own(kernel.path, scratch / "root")
    _run("depmod", "--basedir", str(source.root), source.release)
    load, available = _resolve(source, modules)

    tree = scratch / "tree" / "lib/modules" / source.release
    for path in (*load, *available):
        _decompress(source.modules / path, tree / _plain_name(path))
    for index in _INDEXES:
        if (source.modules / index).is_file():
            shutil.copyfile(source.modules / index, tree / index)
    _run("depmod", "--basedir", str(scratch / "tree"), source.release)

    # The root file system has /lib as a link to usr/lib, which an entry "lib" of a later archive would replace.
    (scratch / "tree/lib").rename(scratch / "tree/usr-lib")
    (scratch / "tree/usr").mkdir()
    (scratch / "tree/usr-lib").rename(scratch / "tree/usr/lib")
    listed = [f"/usr/lib/modules/{source.release}/{_plain_name(path)}" for path in load]
    (scratch / "tree" / LOAD_LIST).parent.mkdir(parents=True)
    (scratch / "tree" / LOAD_LIST).write_text("".join(f"{path}\n" for path in listed))
    (scratch / "tree" / ATTEMPT_LIST).write_text("".join(f"{name}\n" for name in modules.attempted))
    archive_out = Archive()
    archive_out.tree(scratch / "tree")
    (target / MODULES_FILE).write_bytes(archive_out.finish())
    shutil.copyfile(source.image, target / KERNEL_FILE)
    return {"release": source.release, "packages": packages, "modules": [Path(path).stem for path in listed]}


def _unpacked(archive: Path, root: Path, package: str) -> _Source:
    def place(name: str) -> str | None:
        # Below usr from 7.x on; depmod and modprobe look below lib.
        name = name.removeprefix("usr/")
        return name if name.startswith(("boot/vmlinuz-", "lib/modules/")) else None

    bootstrap.extract(archive, root, place)
    releases = sorted(path.name for path in (root / "lib/modules").glob("*") if (path / "modules.order").exists())
    for release in releases:
        for image in (root / f"boot/vmlinuz-{release}", root / "lib/modules" / release / "vmlinuz"):
            if image.is_file():
                return _Source(image, root, release)
    raise ImageError(f"the package {package} brought no kernel with modules", hint="is it a linux-image package?")


def own_kernel(directory: Path) -> tuple[Path, Path]:
    """Return the kernel image and the directory of modules of a user's own kernel.

    Args:
        directory: What ``path:`` names.

    Raises:
        RecipeError: There is no kernel in it, or not one release's modules.
    """
    images = [directory / name for name in ("bzImage", "vmlinuz") if (directory / name).is_file()]
    if not images:
        raise RecipeError(f"no bzImage or vmlinuz in {directory}", hint="a path: kernel is a directory that holds one")
    parents = [directory / name for name in ("lib/modules", "modules") if (directory / name).is_dir()]
    releases = [path for parent in parents for path in sorted(parent.iterdir()) if path.is_dir()]
    if len(releases) != 1:
        seen = ", ".join(path.name for path in releases) or "none"
        raise RecipeError(
            f"expected one release in {directory}/lib/modules, found {seen}",
            hint="make modules_install INSTALL_MOD_PATH=DIRECTORY",
        )
    return images[0], releases[0]


def _own(directory: Path, root: Path) -> _Source:
    image, modules = own_kernel(directory)
    # depmod writes beside the modules, and the user's directory is not ours to write to.
    shutil.copytree(
        modules,
        root / "lib/modules" / modules.name,
        symlinks=True,
        ignore=shutil.ignore_patterns("build", "source"),
    )
    return _Source(image, root, modules.name)


def _resolve(source: _Source, modules: Modules) -> tuple[list[str], list[str]]:
    """Return what is loaded and what is only there, as paths below the modules directory, dependencies first."""
    load: list[str] = []
    available: list[str] = []
    for name in modules.required:
        found = _dependencies(source, name)
        if found is None:
            raise RecipeError(
                f"the kernel {source.release} has no module {name}, which guests need",
                hint="build it with CONFIG_VIRTIO_PCI, CONFIG_VIRTIO_CONSOLE and CONFIG_VIRTIO_VSOCKETS",
            )
        load += found
    for name in modules.optional:
        load += _dependencies(source, name) or []
    for name in (*modules.attempted, *modules.available):
        available += _dependencies(source, name) or []
    load = list(dict.fromkeys(load))
    return load, [path for path in dict.fromkeys(available) if path not in load]


def _dependencies(source: _Source, name: str) -> list[str] | None:
    """Return a module's files, dependencies first; empty if it is built in, ``None`` if the kernel has it not."""
    result = run(
        [
            bootstrap.require("modprobe", "kmod"),
            *("--dirname", source.root, "--set-version", source.release),
            *("--config", "/dev/null", "--show-depends", name),
        ]
    )
    if result.status != 0:
        return None
    # Lines are "insmod PATH " or "builtin NAME"; a path may hold spaces.
    paths = [line.removeprefix("insmod ").strip() for line in result.stdout.splitlines() if line.startswith("insmod ")]
    return [str(Path(path).relative_to(source.modules)) for path in paths]


def _plain_name(path: str) -> str:
    return path.removesuffix(".xz").removesuffix(".gz").removesuffix(".zst")


def _decompress(path: Path, target: Path) -> None:
    """Copy a module uncompressed: guests load it faster, and not every loader can read all formats."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".xz":
        target.write_bytes(lzma.decompress(path.read_bytes()))
    elif path.suffix == ".gz":
        target.write_bytes(gzip.decompress(path.read_bytes()))
    elif path.suffix == ".zst":
        _run(bootstrap.require("zstd", "zstd"), "-q", "-d", str(path), "-o", str(target))
    else:
        shutil.copyfile(path, target)


def _run(program: str, *arguments: str) -> None:
    result = run([bootstrap.require(program, "kmod"), *arguments])
    if result.status != 0:
        raise ImageError(f"{program} failed: {result.stderr.strip() or result.stdout.strip()}")
