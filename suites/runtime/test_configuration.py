# SPDX-License-Identifier: Apache-2.0
"""Whether a container is what its configuration says."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kvtest import Pod, Process, requirement

PATIENCE = 10.0
ALL = 30.0  # for all that are executed at once
AT_ONCE = 16

pytestmark = pytest.mark.capability("runtime")

# A line for each of what a container sees of itself, and one on its errors for each place where it may not write.
SCRIPT = """
echo "word: $WORD"
echo "directory: $(pwd)"
echo "user: $(id -u) $(id -g) $(id -G)"
echo "files: $(ulimit -Sn) $(ulimit -Hn)"
echo "adjustment: $(cat /proc/self/oom_score_adj)"
cat /proc/self/status
echo "queue: $(cat /proc/sys/kernel/msgmax)"
echo "masked: <$(cat /etc/passwd)> <$(ls -A /proc/sys/vm)>"
echo "bound: $(cat /etc/bound) $(cat /etc/bound.d/inner)"
for place in "" /tmp /run /var; do touch $place/file; done
"""

PROCESS = {
    "word": "two words",
    "directory": "/tmp",
    "user": "1000 1001 1001 1002",
    "files": "123 456",
    "adjustment": "77",
    "NoNewPrivs": "1",
    "CapBnd": f"{1 << 0 | 1 << 5:016x}",  # CAP_CHOWN and CAP_KILL (linux/capability.h)
}

SURROUNDINGS = {
    "queue": "4096",
    "masked": "<> <>",
    "bound": "a file one in a directory",
}

READ_ONLY = "".join(f"touch: {place}/file: Read-only file system\n" for place in ("", "/run", "/var"))


# The same of a process beside the first one, which has a terminal.
BESIDE = """
echo "word: $WORD"
echo "directory: $(pwd)"
echo "user: $(id -u) $(id -g) $(id -G)"
echo "locked: $(ulimit -Sl) $(ulimit -Hl)"
cat /proc/self/status
echo "size: $(stty size)"
"""

AS_BESIDE = {key: PROCESS[key] for key in ("word", "user", "NoNewPrivs", "CapBnd")}
AS_BESIDE |= {"directory": "/bin", "locked": "123 456", "size": "44 99"}


def configure(specification: dict[str, Any], files: Path) -> None:
    """Change everything of a configuration that can be seen from inside."""
    specification["process"] |= {
        "user": {"uid": 1000, "gid": 1001, "additionalGids": [1002]},
        "cwd": "/tmp",
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 123, "hard": 456}],
        "oomScoreAdj": 77,
        "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"]},
    }
    specification["root"]["readonly"] = True
    specification["mounts"] += [
        {"destination": place, "type": "tmpfs", "source": "tmpfs", "options": [*options, "uid=1000"]}
        for place, options in (("/tmp", []), ("/run", []), ("/var", ["ro"]))
    ]
    specification["mounts"] += [
        {"destination": f"/etc/{path.name}", "type": "bind", "source": str(path), "options": ["rbind", "ro"]}
        for path in files.iterdir()
    ]
    specification["linux"] |= {
        "sysctl": {"kernel.msgmax": "4096"},
        "maskedPaths": ["/etc/passwd", "/proc/sys/vm"],
        "readonlyPaths": ["/run"],
    }


@requirement("RUNTIME-CONFIG-001", "RUNTIME-CONFIG-003")
def test_a_container_is_as_it_is_configured(shared_pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "bound.d").mkdir()
    for name, content in (("bound", "a file"), ("bound.d/inner", "one in a directory")):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o644)
    (tmp_path / "bound.d").chmod(0o755)
    container = shared_pod.create(
        ["sh", "-c", SCRIPT],
        environment={"WORD": "two words"},
        configure=lambda specification: configure(specification, tmp_path),
    )
    container.start()
    wanted = PROCESS | SURROUNDINGS
    assert told(container, wanted) == wanted
    assert container.stderr.read_all(PATIENCE).decode() == READ_ONLY


def told(process: Process, wanted: Iterable[str]) -> dict[str, str | None]:
    """Return what a process says of itself."""
    lines = process.stdout.read_all(PATIENCE).decode().splitlines()
    found = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {key: found.get(key) for key in wanted}


@requirement("RUNTIME-EXEC-006", "RUNTIME-STDIO-009")
def test_a_process_beside_the_first_is_as_it_is_configured(shared_pod: Pod) -> None:
    def first(specification: dict[str, Any]) -> None:
        specification["process"] |= {"noNewPrivileges": False, "consoleSize": {"height": 33, "width": 77}}

    def beside(process: dict[str, Any]) -> None:
        process["env"].append("WORD=two words")
        process |= {
            "user": {"uid": 1000, "gid": 1001, "additionalGids": [1002]},
            "cwd": "/bin",
            "rlimits": [{"type": "RLIMIT_MEMLOCK", "soft": 123 * 1024, "hard": 456 * 1024}],
            "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"]},
            "consoleSize": {"height": 44, "width": 99},
        }

    container = shared_pod.run(["sh", "-c", "stty size; exec sleep 1000"], terminal=True, configure=first)
    process = container.exec(["sh", "-c", BESIDE], terminal=True, configure=beside)
    assert told(process, AS_BESIDE) == AS_BESIDE
    assert container.stdout.read_until(b"\n", PATIENCE) == b"33 77\r\n"


@requirement("RUNTIME-EXEC-007")
def test_each_process_may_open_as_many_files_as_it_is_configured(shared_pod: Pod) -> None:
    """Many at once: a runtime that changes its own limit in the meantime does not do so in each case."""
    container = shared_pod.run(["sleep", "1000"])

    def execute(number: int) -> str:
        def configure(process: dict[str, Any]) -> None:
            process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100 + number, "hard": 456}]

        process = container.exec(["sh", "-c", "ulimit -Sn; ulimit -Hn"], configure=configure, within=ALL)
        return process.stdout.read_all(ALL).decode()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(execute, range(AT_ONCE)))
    assert found == [f"{100 + number}\n456\n" for number in range(AT_ONCE)]
