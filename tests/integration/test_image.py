# SPDX-License-Identifier: Apache-2.0
"""Images, really built."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from kvtest.deadline import Deadline
from kvtest.errors import ImageError, MissingToolError, RecipeError
from kvtest.harness import Guest, GuestFactory
from kvtest.image import Image, ImageCache
from kvtest.image.bootstrap import unpack
from kvtest.peers import ended_within
from tests.processes import children_of, wait_for_end


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageCache, Image]:
    cache = ImageCache(tmp_path_factory.mktemp("cache ß"))
    return cache, cache.ensure("6.12")


def test_an_image_has_a_manifest(built: tuple[ImageCache, Image]) -> None:
    cache, image = built
    packages = image.manifest["packages"]
    assert packages["python3.11-minimal"].startswith("3.11.")
    assert any(name.startswith("linux-image-6.12") for name in packages)
    assert "vmw_vsock_virtio_transport" in image.manifest["modules"]
    assert image.kernel.stat().st_size == image.manifest["files"]["vmlinuz"]["size"]
    assert cache.images() == [image]


def test_the_same_packages_give_the_same_bytes_whoever_prunes_meanwhile(
    built: tuple[ImageCache, Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = built
    another = ImageCache(tmp_path / "another")
    put_together = ImageCache._put_together
    removed: list[str] = []

    def meanwhile(*arguments: Any) -> None:
        removed.extend(another.prune())
        put_together(*arguments)

    monkeypatch.setattr(ImageCache, "_put_together", staticmethod(meanwhile))
    second = another.ensure("6.12")
    assert removed == [], "layers that a build is about to read"
    assert second.manifest["packages"] == first.manifest["packages"]
    assert second.manifest["files"] == first.manifest["files"]


@pytest.fixture
def own_kernel(built: tuple[ImageCache, Image], tmp_path: Path) -> Path:
    """A kernel as a developer has it: bzImage, and modules below lib/modules."""
    from kvtest.image.cpio import extract

    cache, image = built
    if not cache._layers.names():
        cache.prune()
        cache.ensure("6.12")
    (layer,) = [name for name in cache._layers.names() if name.startswith("kernel-")]
    tree, own = tmp_path / "tree", tmp_path / "my kernel ß"
    extract((cache.directory / "layers" / layer / "modules.cpio").read_bytes(), tree)
    shutil.copytree(tree / "usr/lib/modules", own / "lib/modules")
    shutil.copy(image.kernel, own / "bzImage")
    return own


def test_a_kernel_by_path(own_kernel: Path, factory: GuestFactory) -> None:
    name = f"path:{own_kernel}"
    mine = GuestFactory(evolve(factory.settings, guest_kernel=(name,)), factory.artifacts)
    from kvtest.harness import GuestRequest

    with mine.boot(mine.configuration(GuestRequest())) as guest:
        assert guest.release == next((own_kernel / "lib/modules").iterdir()).name
        assert "vsock" in guest.control.modules()


def test_a_kernel_without_vsock_is_refused(own_kernel: Path, tmp_path: Path) -> None:
    for module in own_kernel.rglob("vmw_vsock_virtio_transport.ko"):
        module.unlink()
    with pytest.raises(RecipeError, match="has no module vmw_vsock_virtio_transport, which guests need") as caught:
        ImageCache(tmp_path / "cache").ensure(f"path:{own_kernel}")
    assert "CONFIG_VIRTIO_VSOCKETS" in (caught.value.hint or "")


def test_a_path_without_a_kernel(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no bzImage or vmlinuz"):
        ImageCache(tmp_path / "cache").ensure(f"path:{tmp_path}")
    assert not list((tmp_path / "cache/layers").glob("root-*")), "packages were fetched for nothing"


def test_a_package_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="could not unpack no-such-package of bookworm") as caught:
        unpack("bookworm", ["no-such-package"], None, tmp_path)
    assert "Unable to locate package" in caught.value.message


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('[links]\n"/tmp/victim" = "busybox"', "named from the image's root"),
        ('[links]\n"../victim" = "busybox"', "named from the image's root"),
        ('[links]\n"usr/new" = "{outside}"\n"usr/new/victim" = "busybox"', "leads out of the image"),
        ('remove = ["usr/bin/python3.11"]', "needs Python and modprobe"),
    ],
)
def test_a_recipe_that_cannot_be_built(tmp_path: Path, lines: str, message: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("mine")
    recipe = tmp_path / "recipe.toml"
    packages = '["busybox-static", "kmod", "libpython3.11-stdlib", "python3-minimal"]'
    recipe.write_text(f'suite = "bookworm"\npackages = {packages}\n{lines.format(outside=outside)}\n')
    with pytest.raises(RecipeError, match=message):
        ImageCache(tmp_path / "cache").ensure("6.12", str(recipe))
    assert (outside / "victim").read_text() == "mine"
    assert [path.name for path in (tmp_path / "cache/images").glob(".building-*")] == []


BUILDER = """
import sys
from pathlib import Path
from kvtest.image import ImageCache
ImageCache(Path(sys.argv[1]), sys.argv[2]).ensure("6.12")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_build_that_is_stopped_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mirror:  # takes connections, and says nothing
        builder = subprocess.Popen(
            [
                *("env", "--default-signal=INT"),  # a shell's background jobs have it ignored
                *(sys.executable, "-c", BUILDER, str(tmp_path), f"http://127.0.0.1:{mirror.getsockname()[1]}/debian"),
            ],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stderr=subprocess.DEVNULL,
        )
        with builder:
            mirror.settimeout(60)
            connection, _ = mirror.accept()  # of apt, which mmdebstrap has started
            keepers = [os.pidfd_open(child) for child in children_of(builder.pid)]
            assert keepers
            builder.send_signal(number)
            assert builder.wait(30) != 0
        with connection:
            assert ended_within([connection], 20) == 1, "a process of the build goes on"
    assert wait_for_end(keepers, Deadline(20))
    assert list(tmp_path.glob("*/.building-*")) == []


def test_without_mmdebstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_arguments, **_options: None)
    with pytest.raises(MissingToolError, match="mmdebstrap was not found") as caught:
        ImageCache(tmp_path).ensure("6.12")
    assert caught.value.hint == "apt-get install mmdebstrap"


def test_modules_that_are_not_loaded_are_there(boot: Callable[..., Guest]) -> None:
    guest = boot()
    assert "overlay" not in guest.control.modules()
    guest.run(["modprobe", "overlay"]).check()
    assert "overlay" in guest.control.modules()


def test_an_image_outlives_its_layers(built: tuple[ImageCache, Image]) -> None:  # the last: others build with them
    cache, image = built
    assert cache.prune({image.name}) != []
    assert cache.images() == [image]
