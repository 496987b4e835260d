# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from kvtest.cache import fingerprint
from kvtest.errors import RecipeError, UnknownNameError
from kvtest.image.recipe import find_kernel, load_kernels, load_recipe


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_the_shipped_recipe_and_kernels() -> None:
    assert "python3-minimal" in load_recipe("guest").packages
    assert set(load_kernels()) == {"5.10", "6.1", "6.12", "7.2"}


def test_an_unknown_key_is_named_with_its_neighbour(tmp_path: Path) -> None:
    path = write(tmp_path / "my recipe ß.toml", 'suite = "s"\npackages = ["pp"]\n[modules]\nrequire = []\n')
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert "unknown key 'modules.require'" in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint == "did you mean 'required'?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('packages = ["a"]', "the key 'suite' is missing"),
        ('suite = 3\npackages = ["a"]', "'suite' must be a string, not 3"),
        ('suite = "s"\npackages = "a"', "'packages' must be a list, not 'a'"),
        ('suite = "s"\npackages = [1]', r"'packages\[0\]' must be a string"),
        ('suite = "s"\npackages = ["pp"]\nmodules = 1', "'modules' must be a table"),
        ("suite = ", "could not read"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path / "recipe.toml", text))


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown guest kernel '6\.2'") as caught:
        find_kernel("6.2")
    assert "6.12" in (caught.value.hint or "")
    with pytest.raises(UnknownNameError, match="unknown guest image 'gest'") as caught:
        load_recipe("gest")
    assert caught.value.hint == "did you mean 'guest'?"


def test_a_path_kernel_needs_a_directory(tmp_path: Path) -> None:
    assert find_kernel(f"path:{tmp_path}").path == tmp_path
    with pytest.raises(RecipeError, match="no directory"):
        find_kernel(f"path:{tmp_path}/missing")


def test_a_fingerprint_follows_every_value(tmp_path: Path) -> None:
    recipe = load_recipe("guest")
    other = load_recipe(
        write(
            tmp_path / "r.toml",
            'suite = "s"\npackages = ["pp"]\n[links]\n"a" = "b"\n[modules]\noptional = ["x"]',
        )
    )
    assert fingerprint(recipe) == fingerprint(load_recipe("guest"))
    assert len({fingerprint(recipe), fingerprint(other), fingerprint(recipe, 1), fingerprint(other.modules)}) == 4


def test_a_recipe_on_another_has_what_both_have() -> None:
    guest, agent = load_recipe("guest"), load_recipe("agent")
    assert agent.suite == guest.suite
    assert agent.packages == (*guest.packages, "crun")
    disks = ("virtio_blk", "erofs", "overlay")
    assert agent.modules.required == (*guest.modules.required, "vsock_diag", *disks)
    assert (agent.remove, agent.links, agent.agent, guest.agent) == (guest.remove, guest.links, "reference", None)


@pytest.mark.parametrize("base", ["no-such-recipe", "../images/guest"])
def test_a_recipe_on_none_is_refused(tmp_path: Path, base: str) -> None:
    with pytest.raises(RecipeError, match=r"'base' is .*, which is no other recipe"):
        load_recipe(write(tmp_path / "mine.toml", f'base = "{base}"\n'))
