# SPDX-License-Identifier: Apache-2.0
"""Whether a container is what its configuration says."""

from __future__ import annotations

from typing import Any

import pytest

from kvtest import Pod, requirement

PATIENCE = 10.0

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
}

READ_ONLY = "".join(f"touch: {place}/file: Read-only file system\n" for place in ("", "/run", "/var"))


def configure(specification: dict[str, Any]) -> None:
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
    specification["linux"] |= {
        "sysctl": {"kernel.msgmax": "4096"},
        "maskedPaths": ["/etc/passwd", "/proc/sys/vm"],
        "readonlyPaths": ["/run"],
    }


@requirement("RUNTIME-CONFIG-001", "RUNTIME-CONFIG-003")
def test_a_container_is_as_it_is_configured(shared_pod: Pod) -> None:
    container = shared_pod.create(["sh", "-c", SCRIPT], environment={"WORD": "two words"}, configure=configure)
    container.start()
    lines = container.stdout.read_all(PATIENCE).decode().splitlines()
    found = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    wanted = PROCESS | SURROUNDINGS
    assert {key: found.get(key) for key in wanted} == wanted
    assert container.stderr.read_all(PATIENCE).decode() == READ_ONLY
