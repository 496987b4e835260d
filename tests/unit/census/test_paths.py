# SPDX-License-Identifier: Apache-2.0
"""What somebody else has made for us, and removing it by force."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvtest.census import Kind, Ledger, Marks
from kvtest.census.removal import remove_by_force
from kvtest.ownership import AdoptedProcess, run
from kvtest.ownership.keeper import end


def test_a_path_of_ours_is_found_and_removed(tmp_path: Path) -> None:
    marks = Marks()
    marks.paths.add(str(tmp_path / "state-*"))
    ledger = Ledger(marks)
    ledger.open()
    (tmp_path / "state-1").mkdir()
    (tmp_path / "state-1" / "file").touch()
    (tmp_path / "other").touch()
    (left,) = ledger.left(without=(Kind.DESCRIPTOR,))
    assert (left.kind, left.text) == (Kind.PATH, str(tmp_path / "state-1"))
    with pytest.raises(AssertionError, match=f"left behind, .*: path {tmp_path}/state-1"):
        ledger.assert_clean(within=0.05)
    remove_by_force([left])
    ledger.assert_clean(within=1.0)
    assert (tmp_path / "other").exists()


def test_a_process_is_ended_by_force() -> None:
    ledger = Ledger(Marks())
    run(["true"])  # the keeper is there by right
    ledger.open()
    pid = int(run(["sh", "-c", "sleep 1000 >/dev/null & echo $!"], deadline=10.0).stdout)
    with AdoptedProcess(pid) as process:
        left = ledger.left(without=(Kind.DESCRIPTOR,))
        assert [thing.pid for thing in left] == [pid]
        remove_by_force(left)
        assert process.wait(10.0) == -9
    ledger.assert_clean(within=1.0)


@pytest.mark.skipif(not os.access("/sys/fs/cgroup/freezer", os.W_OK), reason="no cgroups v1, or no permission")
def test_a_frozen_process_is_ended_by_force() -> None:
    cgroup = Path(f"/sys/fs/cgroup/freezer/kvtest-test-{os.getpid()}")
    cgroup.mkdir()
    pid = int(run(["sh", "-c", "sleep 1000 >/dev/null & echo $!"], deadline=10.0).stdout)
    with AdoptedProcess(pid) as process:
        (cgroup / "cgroup.procs").write_text(str(pid))
        (cgroup / "freezer.state").write_text("FROZEN")
        end(pid)
        assert process.wait(10.0) == -9
    cgroup.rmdir()
