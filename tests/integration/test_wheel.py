# SPDX-License-Identifier: Apache-2.0
"""The installed package, without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

from kvtest.settings import Settings

ROOT = Path(__file__).parents[2]


def test_a_wheel_runs_a_suite_from_another_directory(settings: Settings, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)], check=True
    )
    (wheel,) = tmp_path.glob("kvtest-*.whl")
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin/python"
    subprocess.run([*pip, "--python", str(python), "install", str(wheel)], check=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KVTEST", "PYTEST"))}
    elsewhere = tmp_path / "elsewhere ß"
    elsewhere.mkdir()
    # From where the checkout cannot be seen; the recipes make the same image, so the cache has it.
    result = subprocess.run(
        [environment / "bin/kvtest", "run", "transport", "-k", "directions", "--cache", str(settings.cache)],
        cwd=elsewhere,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout
    assert f"{ROOT}/" not in result.stdout
    junit = (elsewhere / "kvtest-results/junit.xml").read_text()
    assert 'classname="suites.transport.test_vsock_directions"' in junit
    assert "root file system" not in result.stderr, "the wheel's recipes differ from the checkout's"
