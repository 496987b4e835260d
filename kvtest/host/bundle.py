# SPDX-License-Identifier: Apache-2.0
"""kvtest and what it is built on, in one image that a lab host mounts: nothing is installed there."""

from __future__ import annotations

import compileall
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from kvtest.cache import Progress, Store, fingerprint, silent
from kvtest.host import erofs, installed, wheels
from kvtest.host.attended_run import write_script
from kvtest.image import Image, cpio
from kvtest.image.root import compile_sources

IMAGE = "bundle.erofs"
PLACE = Path("/lab/site")
"""Where it is to be mounted."""
PROGRAMS = "bin"
"""The directory of it with the commands that kvtest brings."""
_FORMAT = 4
_PYTHON = "/usr/bin/python3"
_KEPT = 3
_KEPT_SECONDS = 24 * 3600


def ensure(cache: Path, image: Image, progress: Progress = silent) -> Path:
    """Return the bundle for a lab host, made if need be; its root is what Python is to search.

    Args:
        cache: The cache directory.
        image: The lab host's image, whose Python it is for.
        progress: Told when one is made.

    Raises:
        MissingToolError: mkfs.erofs is absent.
        HostError: It failed, or something could not be brought for that Python.
        CacheError: The cache cannot be written.
    """
    packages = installed.distributions()
    versions = sorted((one.metadata["Name"], one.version) for one in packages)
    code = [
        (str(path.relative_to(base)), path.stat().st_size, path.stat().st_mtime_ns)
        for base, path in installed.own_files()
    ]
    name = f"bundle-{fingerprint(_FORMAT, versions, sorted(code), sys.version, image.python)}"

    def build(target: Path) -> dict[str, Any]:
        store(cache).forget_old(_KEPT, _KEPT_SECONDS)  # each change of kvtest makes one
        tree, scratch = target / "tree", target / "scratch"
        scratch.mkdir()
        with progress(f"kvtest for a lab host with Python {image.python}"):
            _fill(tree, packages, image, scratch)
            erofs.pack(tree, target / IMAGE)
        shutil.rmtree(tree)
        shutil.rmtree(scratch)
        return {}

    entry = store(cache).get(name, build, progress)
    store(cache).used(name)
    return entry.path / IMAGE


def store(cache: Path) -> Store:
    """Return where bundles are kept.

    Args:
        cache: The cache directory.
    """
    return Store(cache / "bundles")


def _fill(site: Path, packages: list[metadata.Distribution], image: Image, scratch: Path) -> None:
    ours = image.python == wheels.OURS
    foreign = [] if ours else [one for one in packages if wheels.bound(one)]
    for file, source in installed.files([one for one in packages if one not in foreign]):
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, site / file)
    wheels.fetch(foreign, image.python, site, scratch)
    if ours:
        compileall.compile_dir(site, quiet=2)
    else:
        root = scratch / "root"
        cpio.extract(image.initramfs.read_bytes(), root)
        compile_sources(root, site, str(PLACE), beside_sources=True)
    (site / PROGRAMS).mkdir()
    for name, target in installed.scripts().items():
        write_script(site / PROGRAMS / name, _PYTHON, PLACE, target)
