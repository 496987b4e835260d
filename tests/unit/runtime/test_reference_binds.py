# SPDX-License-Identifier: Apache-2.0
"""What is bound from the host: it comes into the guest as a copy, or the container is refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, cast

import pytest

from kvtest.errors import HostError
from kvtest.runtime.agent import Agent
from kvtest.runtime.reference.binds import BYTES, FILES, Binds, is_bind

PREFIX = "/run/of/the/agent"


class Guest:
    """Takes the files that an agent would be given."""

    class behaviour:  # noqa: N801 - stands for an attribute
        copy_prefix = PREFIX

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, int]] = {}

    def copy_file(self, path: str, data: bytes, mode: int, owner: tuple[int, int]) -> None:
        assert path.startswith(f"{PREFIX}/")
        assert owner == (os.geteuid(), os.getegid())
        self.files[path] = data, mode


def bound(bundle: Path, guest: Guest, *mounts: dict[str, Any]) -> list[Any]:
    return Binds(bundle).replaced(mounts, cast(Agent, guest))


def test_a_file_and_a_directory_are_copied_and_read_only(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("::1 here\n")
    (tmp_path / "secret/..1").mkdir(parents=True)
    (tmp_path / "secret/..1/token").write_bytes(b"\0key")
    (tmp_path / "secret/..1/token").chmod(0o640)
    (tmp_path / "secret/token").symlink_to("..1/token")
    (tmp_path / "link").symlink_to("hosts")
    guest = Guest()
    proc = {"destination": "/proc", "type": "proc", "source": "proc"}
    file, directory, kept = bound(
        tmp_path,
        guest,
        {"destination": "/etc/hosts", "type": "bind", "source": "link", "options": ["rbind", "rw", "rprivate"]},
        {"destination": "/var/secret", "source": f"{tmp_path}/secret", "options": ["bind"]},
        proc,
    )
    assert kept == proc
    assert (file["destination"], file["options"]) == ("/etc/hosts", ["rbind", "rprivate", "ro"])
    assert directory["options"] == ["bind", "ro"]
    assert guest.files[file["source"]] == (b"::1 here\n", (tmp_path / "hosts").stat().st_mode)
    assert stat.S_ISDIR(guest.files[directory["source"]][1])
    assert guest.files[f"{directory['source']}/..1/token"] == (b"\0key", 0o100640)
    link = guest.files[f"{directory['source']}/token"]
    assert (link[0], stat.S_ISLNK(link[1])) == (b"..1/token", True)


def test_a_directory_is_there_before_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").touch()
    guest = Guest()
    bound(tmp_path, guest, {"destination": "/a", "type": "bind", "source": "a"})
    assert [path.rpartition("/0")[2] for path in guest.files] == ["", "/b", "/b/c"]


def test_shared_memory_is_the_containers_own(tmp_path: Path) -> None:
    guest = Guest()
    (found,) = bound(tmp_path, guest, {"destination": "/dev/shm/", "type": "bind", "source": "/nowhere"})
    assert found["type"] == "tmpfs"
    assert not is_bind(found)
    assert guest.files == {}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "No such file or directory"),
        ("/dev/null", "/dev/null is neither a file nor a directory"),
        ("large", "there is too much in it: at most 256 files with 4 MiB"),
        ("many", "there is too much in it"),
    ],
)
def test_what_cannot_be_copied_is_refused(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "many").mkdir()
    for number in range(FILES):
        (tmp_path / f"many/{number}").touch()
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", BYTES + 1)
    guest = Guest()
    with pytest.raises(HostError) as caught:
        bound(tmp_path, guest, {"destination": "/x", "type": "bind", "source": source})
    assert caught.value.message.startswith(f"cannot bind {tmp_path / source} at /x: {message}"), caught.value.message
    assert "share no files with the host" in str(caught.value)
    assert guest.files == {}
