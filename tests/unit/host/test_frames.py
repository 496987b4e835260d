# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from kvtest.host.frames import Frames, Header, pack


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_frames_come_out_as_they_went_in(size: int) -> None:
    sent: list[tuple[Header, bytes]] = [
        ({"said": 1}, b"ab\0c"),
        ({"pong": 1}, b""),
        ({"object": "ü", "at": 1 << 40}, bytes(500)),
    ]
    data = b"".join(pack(header, payload) for header, payload in sent)
    frames, came = Frames(), []
    for start in range(0, len(data), size):
        frames.feed(data[start : start + size])
        came += list(frames.take())
    assert came == sent
