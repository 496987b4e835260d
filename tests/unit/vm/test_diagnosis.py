# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from kvtest.vm.diagnosis import end_of_init


@pytest.mark.parametrize(
    ("panic", "words"),
    [
        ("Attempted to kill init! exitcode=0x00000700", " (the first process exited with status 7)"),
        ("Attempted to kill init! exitcode=0x00000000", " (the first process exited with status 0)"),
        ("Attempted to kill init! exitcode=0x0000000b", " (the first process was killed by SIGSEGV)"),
        ("Attempted to kill init! exitcode=0x0000008b", " (the first process was killed by SIGSEGV)"),
        ("VFS: Unable to mount root fs on unknown-block(0,0)", ""),
    ],
)
def test_a_panic_tells_how_the_first_process_ended(panic: str, words: str) -> None:
    assert end_of_init(panic) == words
