# SPDX-License-Identifier: Apache-2.0
"""kvtest's own part of a machine: found and not found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from kvtest.accelerator import AcceleratorChoice
from kvtest.doctor import Finding, Status, own, qemu
from kvtest.doctor.system import System
from kvtest.settings import Settings

SYSTEM = System("6.1")


def rows(settings: Settings, **changes: Any) -> dict[str, Finding]:
    changed = attrs.evolve(settings, **changes)
    checks = (*own.CHECKS, *(check for check in qemu.CHECKS if check.name != "QEMU devices"))
    return {row.check: row for check in checks for row in check.findings(SYSTEM, changed)}


def test_before_the_first_run(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("cache") / "kvtest"
    found = rows(settings, cache=cache, accelerator=AcceleratorChoice.AUTO)
    assert found["guest image"].found == "6.12: not built yet; a run builds it"
    assert found["accelerator"].found == "known once there is a guest image to try it with"
    assert found["templates"].found.startswith("0 in ")
    assert {found[name].status for name in ("QEMU", "mmdebstrap", "kmod", "cache", "run directory")} == {Status.OK}
    assert not cache.exists()  # looking leaves nothing


def test_an_accelerator_that_was_asked_for_is_not_doubted(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    row = rows(settings, cache=tmp_path_factory.mktemp("cache"), accelerator=AcceleratorChoice.TCG)["accelerator"]
    assert (row.status, row.found) == (Status.OK, "tcg (asked for)")


def test_directories_that_cannot_be_used(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("place") / "file"
    file.touch()
    found = rows(settings, cache=file / "below", run_directory=file)
    assert found["cache"].status is Status.MISSING
    assert found["cache"].found == f"cannot write to {file}/below: Not a directory"
    assert found["cache"].cure == "choose another with --cache"
    assert found["run directory"].status is Status.MISSING
    assert found["run directory"].cure is not None


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_cache_that_takes_no_files_is_tried(settings: Settings) -> None:
    row = rows(settings, cache=Path("/proc/nope/cache"))["cache"]  # it lets everybody write, by its mode
    assert row.status is Status.MISSING
    assert row.found == "cannot write to /proc/nope/cache: No such file or directory"


def test_trying_leaves_everything_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    own.try_to_write(tmp_path / "there")
    own.try_to_write(tmp_path / "there/a/b/c")
    with pytest.raises(OSError, match="File name too long"):
        own.try_to_write(tmp_path / "there/d" / ("e" * 300))
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["there"]


def test_a_kernel_of_ones_own(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("kernel")
    kernel = f"path:{directory}"
    assert rows(settings, guest_kernel=(kernel,))["guest image"].found == f"no bzImage or vmlinuz in {directory}"
    (directory / "bzImage").touch()
    row = rows(settings, guest_kernel=(kernel,))["guest image"]
    assert row.found == f"expected one release in {directory}/lib/modules, found none"
    assert row.cure == "make modules_install INSTALL_MOD_PATH=DIRECTORY"
    (directory / "lib/modules/6.1.0-mine").mkdir(parents=True)
    row = rows(settings, guest_kernel=(kernel,))["guest kernel"]
    assert (row.status, row.found) == (Status.OK, f"{directory}/bzImage, modules of 6.1.0-mine")


def test_kernels_and_runtimes_that_nobody_knows(settings: Settings) -> None:
    found = rows(settings, guest_kernel=("6.13",), runtime="rnc")
    assert found["guest image"].status is Status.MISSING
    assert found["guest image"].found == "unknown guest kernel '6.13'"
    assert found["runtime"].status is Status.MISSING
    assert found["runtime"].cure is not None
