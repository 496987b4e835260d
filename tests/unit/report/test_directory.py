# SPDX-License-Identifier: Apache-2.0
"""Who holds a results directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvtest.errors import SettingError
from kvtest.report.directory import held


def test_what_a_run_has_forked_does_not_hold_it(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    ready, started = os.pipe()
    with held(tmp_path / "results"):
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.write(started, b".")
            os.read(reader, 1)  # until the test is over
            os._exit(0)
    os.read(ready, 1)
    try:
        with held(tmp_path / "results"):
            other = os.fork()
            if other == 0:
                try:
                    with held(tmp_path / "results"):
                        os._exit(1)
                except SettingError:
                    os._exit(0)
            assert os.waitpid(other, 0)[1] == 0
    finally:
        for descriptor in (reader, writer, ready, started):
            os.close(descriptor)
        os.waitpid(child, 0)


def test_nobody_else_holds_it(tmp_path: Path) -> None:
    with held(tmp_path / "results"), held(tmp_path / "results"):  # this process does so already
        assert (tmp_path / "results/.kvtest").is_file()
    (tmp_path / "file").touch()
    with pytest.raises(SettingError, match="is a file"), held(tmp_path / "file"):
        pass
