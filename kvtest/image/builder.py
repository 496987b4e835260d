# SPDX-License-Identifier: Apache-2.0
"""From a recipe and a kernel to an image.

An image is an initramfs of three archives, one after the other: root file system, kernel modules, kvtest's code. Each
is a layer in the cache with a key of its own, so that a change of guest code costs a second and not a bootstrap.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import frozen

from kvtest.cache import Entry, Progress, Store, fingerprint, silent
from kvtest.cache.store import Build
from kvtest.concurrency import at_once
from kvtest.errors import UsageError
from kvtest.image import brought
from kvtest.image import kernel as kernels
from kvtest.image import root as roots
from kvtest.image.agent import Agent, find_agent
from kvtest.image.recipe import Kernel, Recipe, find_kernel, load_recipe
from kvtest.ownership import temporary_directory
from kvtest.ownership.use import in_use
from kvtest.start import AgentStart

# Part of every key: raised when what the builder makes of the same recipe changes.
_FORMAT = 1
_KERNEL = "vmlinuz"
_PYTHON = re.compile(r"libpython(3\.\d+)-minimal")  # the package
_INITRAMFS = "initramfs"


@frozen
class Image:
    """A kernel and a root file system to boot it with.

    Args:
        name: Its name in the cache; changes with everything that shapes it.
        kernel: The kernel image.
        initramfs: The root file system, an uncompressed cpio archive.
        manifest: Kernel release, package versions, modules, and the digests of the files.
    """

    name: str
    kernel: Path
    initramfs: Path
    manifest: dict[str, Any]

    @classmethod
    def of(cls, entry: Entry) -> Image:
        """Return an entry of the cache as an image."""
        return cls(entry.path.name, entry.path / _KERNEL, entry.path / _INITRAMFS, entry.manifest)

    @property
    def release(self) -> str:
        """The kernel's release, as ``uname -r`` prints it."""
        return str(self.manifest["release"])

    @property
    def python(self) -> str:
        """The version of its Python, such as ``3.11``."""
        found = (_PYTHON.fullmatch(name) for name in self.manifest["packages"])
        return next(match[1] for match in found if match is not None)  # without one it would not have been built

    @property
    def digest(self) -> str:
        """What tells its contents from all others."""
        return fingerprint(*(self.manifest["files"][name]["sha256"] for name in (_KERNEL, _INITRAMFS)))

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(int(file["size"]) for file in self.manifest["files"].values())


class ImageCache:
    """The images of a cache directory.

    Args:
        directory: The cache directory.
        mirror: Where packages come from; mmdebstrap's own choice if ``None``.
    """

    def __init__(self, directory: Path, mirror: str | None = None) -> None:
        self.directory = directory
        self._mirror = mirror
        self._images = Store(directory / "images")
        self._layers = Store(directory / "layers")

    def ensure(
        self,
        kernel: str,
        recipe: str = "guest",
        progress: Progress = silent,
        *,
        agent: Path | None = None,
        start: AgentStart | None = None,
    ) -> Image:
        """Return an image, built if need be.

        Args:
            kernel: Name of the kernel, or ``path:DIRECTORY``.
            recipe: Name of the recipe, or the path of a TOML file.
            progress: Told of each step.
            agent: The program that runs in it in place of the recipe's guest agent.
            start: What that is in its guest, in place of what the recipe says.

        Raises:
            UnknownNameError: There is no such kernel or recipe.
            RecipeError: One of them cannot be used.
            MissingToolError: A program that builds images is absent.
            ImageError: Building failed.
            CacheError: The cache cannot be written.
        """
        name = brought.name_of(kernel, recipe, agent, start)
        entry = None if name is None else self._images.find(name)
        if entry is not None:
            return Image.of(entry)
        plan = _Plan.of(kernel, recipe, agent, start)
        return Image.of(self._images.get(plan.image, lambda target: self._build(plan, target, progress), progress))

    def find(self, kernel: str, recipe: str = "guest") -> Image | None:
        """Return an image if it is in the cache and intact."""
        entry = self._images.find(_Plan.of(kernel, recipe).image)
        return None if entry is None else Image.of(entry)

    def fetches(
        self, kernel: str, recipe: str = "guest", *, agent: Path | None = None, start: AgentStart | None = None
    ) -> tuple[str, ...] | None:
        """Return from which releases of a distribution packages would be fetched if an image were asked for.

        Args:
            kernel: See :meth:`ensure`.
            recipe: See there.
            agent: See there.
            start: See there.

        Returns:
            The releases, none if it would be put together of what is there; ``None`` if the image itself is there.

        Raises:
            UnknownNameError: There is no such kernel or recipe.
            RecipeError: One of them cannot be used.
        """
        name = brought.name_of(kernel, recipe, agent, start)
        if name is not None and self._images.find(name) is not None:
            return None
        plan = _Plan.of(kernel, recipe, agent, start)
        if self._images.find(plan.image) is not None:
            return None
        parts = ((plan.root, plan.recipe.suite), (plan.modules, plan.kernel.suite))
        absent = [suite for layer, suite in parts if suite is not None and self._layers.find(layer) is None]
        return tuple(dict.fromkeys(absent))

    def images(self) -> list[Image | str]:
        """Return every image of the cache; of one that is corrupt, its name."""
        entries = [(name, self._images.find(name)) for name in self._images.names()]
        return [name if entry is None else Image.of(entry) for name, entry in entries]

    def prune(self, keep: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
        """Remove images and layers.

        Args:
            keep: Names of the images that stay; their layers go, they are only needed for building.

        Returns:
            The names of what was removed.
        """
        return self._images.prune(lambda name: name in keep) + self._layers.prune(lambda name: False)

    def half_made(self, *, remove: bool) -> list[Path]:
        """Return what killed builders left; see :meth:`kvtest.cache.Store.half_made`."""
        return self._images.half_made(remove=remove) + self._layers.half_made(remove=remove)

    def _build(self, plan: _Plan, target: Path, progress: Progress) -> dict[str, Any]:
        with contextlib.ExitStack() as held:
            if plan.kernel.path is None:  # both wait for downloads most of the time
                steps = (lambda: self._root(plan, progress, held), lambda: self._kernel(plan, progress, held))
                root, kernel = at_once(*steps)
            else:  # what is wrong with it is told before anything is downloaded
                kernel = self._kernel(plan, progress, held)
                root = self._root(plan, progress, held)
            code = self._code(plan, root, progress, held)
            self._put_together(root, kernel, code, target, progress)
        return {
            "recipe": plan.recipe_name,
            "kernel": plan.kernel_name,
            "release": kernel.manifest["release"],
            "modules": kernel.manifest["modules"],
            "packages": {**root.manifest["packages"], **kernel.manifest["packages"]},
        }

    def _layer(self, name: str, build: Build, progress: Progress, held: contextlib.ExitStack) -> Entry:
        """Return a layer that nobody removes as long as it is held."""
        while True:
            entry = self._layers.get(name, build, progress)
            with contextlib.suppress(FileNotFoundError):  # it was removed before we held it
                held.enter_context(in_use(entry.path))
                return entry

    @staticmethod
    def _put_together(root: Entry, kernel: Entry, code: Entry, target: Path, progress: Progress) -> None:
        with progress("putting the image together"):
            (target / _KERNEL).write_bytes((kernel.path / kernels.KERNEL_FILE).read_bytes())
            with (target / _INITRAMFS).open("wb") as stream:
                stream.write((root.path / roots.ROOT_FILE).read_bytes())
                stream.write((kernel.path / kernels.MODULES_FILE).read_bytes())
                stream.write((code.path / roots.CODE_FILE).read_bytes())

    def _root(self, plan: _Plan, progress: Progress, held: contextlib.ExitStack) -> Entry:
        def build(target: Path) -> dict[str, Any]:
            with progress(f"root file system of {plan.recipe.suite}"):
                return _in_scratch(target, lambda scratch: roots.build_root(plan.recipe, self._mirror, scratch, target))

        return self._layer(plan.root, build, progress, held)

    def _kernel(self, plan: _Plan, progress: Progress, held: contextlib.ExitStack) -> Entry:
        def build(target: Path) -> dict[str, Any]:
            with progress(f"kernel {plan.kernel_name}"):
                return _in_scratch(
                    target,
                    lambda scratch: kernels.build(plan.kernel, plan.recipe.modules, self._mirror, scratch, target),
                )

        return self._layer(plan.modules, build, progress, held)

    def _code(self, plan: _Plan, root: Entry, progress: Progress, held: contextlib.ExitStack) -> Entry:
        def build(target: Path) -> dict[str, Any]:
            with progress("guest code"):
                archive = (root.path / roots.ROOT_FILE).read_bytes()
                return _in_scratch(target, lambda scratch: roots.build_code(plan.agent, archive, scratch, target))

        return self._layer(plan.code, build, progress, held)


@frozen
class _Plan:
    """What is to be built, and the names that its layers have in the cache."""

    kernel_name: str
    kernel: Kernel
    recipe_name: str
    recipe: Recipe
    agent: Agent | None
    root: str
    modules: str
    code: str
    image: str

    @classmethod
    def of(
        cls, kernel_name: str, recipe_name: str, program: Path | None = None, start: AgentStart | None = None
    ) -> _Plan:
        kernel, recipe = find_kernel(kernel_name), load_recipe(recipe_name)
        agent = find_agent(recipe.agent if program is None else str(program), start or recipe.agent_start)
        own = [] if kernel.path is None else _state_of(kernel.path)
        root = f"root-{fingerprint(_FORMAT, recipe.suite, recipe.packages, recipe.remove, recipe.links)}"
        modules = f"kernel-{fingerprint(_FORMAT, kernel, recipe.modules, own)}"
        code = f"code-{fingerprint(_FORMAT, root, roots.code_fingerprint(agent))}"
        stem = Path(recipe_name).stem
        label = "own" if kernel.path is not None else kernel_name
        image = f"{stem}-{label}-{fingerprint(_FORMAT, root, modules, code)}"
        return cls(kernel_name, kernel, recipe_name, recipe, agent, root, modules, code, image)


def _state_of(directory: Path) -> list[list[object]]:
    """Return what changes when a user builds the kernel again: sizes and times of its files."""
    try:
        found = [(path, path.stat()) for path in sorted(directory.rglob("*")) if path.is_file()]
    except OSError as error:
        raise UsageError(f"could not read the kernel in {directory}: {error.strerror}") from error
    return [[str(path.relative_to(directory)), status.st_size, status.st_mtime_ns] for path, status in found]


def _in_scratch(target: Path, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    with temporary_directory(target, "scratch-") as scratch:
        return work(scratch)
