# SPDX-License-Identifier: Apache-2.0
"""What users bring along."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from kvtest.errors import HostError, UsageError
from kvtest.host import parcels
from kvtest.host.parcels import of_directory, of_file, of_tests, packed


def write(base: Path, *names: str) -> None:
    for name in names:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text("[tool.pytest.ini_options]" if name == "pyproject.toml" else name)


def test_a_file_and_its_place(tmp_path: Path) -> None:
    write(tmp_path, "shim", "other")
    (tmp_path / "shim").chmod(0o755)
    parcel = of_file(tmp_path / "shim", "--shim")
    assert list(parcel.tree.files) == ["shim"]
    assert parcel.tree.files["shim"].executable
    assert parcel.there(tmp_path / "shim", "/base") == f"/base/{parcel.tree.place}/shim"
    write(tmp_path / "elsewhere", "shim")
    assert of_file(tmp_path / "elsewhere/shim", "--shim").tree.place != parcel.tree.place  # it is no program


def test_parcels_are_packed_each_in_its_place(tmp_path: Path) -> None:
    write(tmp_path, "shim", "beside/mine.toml")
    (tmp_path / "shim").chmod(0o755)
    found = [of_file(tmp_path / "shim", "--shim"), of_directory(tmp_path / "beside", "--requirements")]
    with tarfile.open(fileobj=io.BytesIO(packed(found))) as tar:
        assert {member.name: member.mode for member in tar} == {
            f"{found[0].tree.place}/shim": 0o755,
            f"{found[1].tree.place}/mine.toml": 0o644,
        }
        content = tar.extractfile(f"{found[1].tree.place}/mine.toml")
        assert content is not None
        assert content.read() == b"beside/mine.toml"
    (tmp_path / "shim").unlink()
    with pytest.raises(HostError, match="shim cannot be brought: No such file or directory"):
        packed(found)


def test_a_configuration_comes_with_its_drop_in_files(tmp_path: Path) -> None:
    write(tmp_path, "configuration.toml", "config.d/10-mine")
    assert list(of_file(tmp_path / "configuration.toml", "x").tree.files) == ["configuration.toml", "config.d/10-mine"]


def test_a_directory_is_its_own_root(tmp_path: Path) -> None:
    write(tmp_path, "mine.toml", "below/more.toml")
    parcel = of_directory(tmp_path, "--requirements")
    assert set(parcel.tree.files) == {"mine.toml", "below/more.toml"}
    assert parcel.there(tmp_path, "/base") == f"/base/{parcel.tree.place}"


def test_linked_directories_come_along_once(tmp_path: Path) -> None:
    write(tmp_path, "own/test_a.py", "shared/helpers.py")
    (tmp_path / "own/linked").symlink_to("../shared")
    (tmp_path / "own/again").symlink_to(".")
    (tmp_path / "shared/back").symlink_to("../own")
    assert set(of_directory(tmp_path / "own", "x").tree.files) == {"test_a.py", "linked/helpers.py"}


@pytest.mark.parametrize("of", [of_file, of_directory])
def test_what_is_not_there(tmp_path: Path, of: object) -> None:
    assert callable(of)
    with pytest.raises(UsageError, match=r"--it: there is no (file|directory) /.*/gone to be brought"):
        of(tmp_path / "gone", "--it")


@pytest.mark.parametrize(
    ("there", "asked", "brought"),
    [
        (("test_a.py", "helper.py"), ["test_a.py"], {"test_a.py", "helper.py"}),
        (("a/test_a.py", "b/test_b.py", "c/x"), ["a/test_a.py", "b"], {"a/test_a.py", "b/test_b.py"}),
        (
            ("pyproject.toml", "conftest.py", "src/x.py", "t/conftest.py", "t/unit/test_a.py", "t/other/y.py"),
            ["t/unit"],
            {"pyproject.toml", "conftest.py", "t/conftest.py", "t/unit/test_a.py"},
        ),
        (
            ("pyproject.toml", "t/__init__.py", "t/help.py", "t/unit/__init__.py", "t/unit/test_a.py"),
            ["t/unit/test_a.py"],
            {"pyproject.toml", "t/__init__.py", "t/help.py", "t/unit/__init__.py", "t/unit/test_a.py"},
        ),
        (("t/test_a.py", "t/.venv/x", "t/v/pyvenv.cfg", "t/v/y", "t/__pycache__/z"), ["t"], {"test_a.py"}),
    ],
)
def test_tests_come_with_what_they_need(
    tmp_path: Path, there: Sequence[str], asked: Sequence[str], brought: set[str]
) -> None:
    write(tmp_path, *there)
    assert set(of_tests([tmp_path / name for name in asked]).tree.files) == brought


def test_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcels, "_MOST_FILES", 2)
    write(tmp_path, "test_a.py", "b", "c")
    with pytest.raises(UsageError, match="would be brought as a whole"):
        of_tests([tmp_path / "test_a.py"])
