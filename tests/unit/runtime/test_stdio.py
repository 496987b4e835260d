# SPDX-License-Identifier: Apache-2.0
"""Fifos: who opens first, what ends them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from kvtest.errors import DeadlineExceededError
from kvtest.runtime.stdio import Input, Output


def test_output_ends_with_its_last_writer(tmp_path: Path) -> None:
    output = Output(tmp_path / "out")
    with pytest.raises(DeadlineExceededError, match="the end of the output; last seen: 0 bytes"):
        output.read_all(0.01)
    with output.path.open("wb", buffering=0) as one, output.path.open("wb", buffering=0) as two:
        one.write(b"one ")
        one.close()
        two.write(b"two")
        assert output.read_until(b"two", 5.0) == b"one two"
        with pytest.raises(DeadlineExceededError):
            output.read_all(0.01)
    assert output.read_all(5.0) == b"one two"
    with pytest.raises(EOFError, match="without b'three'"):
        output.read_until(b"three", 5.0)
    output.close()
    assert not output.path.exists()


def test_output_can_be_left_and_taken_again(tmp_path: Path) -> None:
    output = Output(tmp_path / "out")
    with output.path.open("wb", buffering=0) as writer:
        writer.write(b"one ")
        assert output.read_until(b"one ", 5.0) == b"one "
        output.detach()
        with pytest.raises(BrokenPipeError):
            writer.write(b"lost ")
        output.attach()
        writer.write(b"two")
        assert output.read_until(b"two", 5.0) == b"one two"
    output.close()
    assert not output.path.exists()


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def draining() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("kvtest-drain")]


def test_output_without_an_end_has_a_reader_until_it_is_closed(tmp_path: Path) -> None:
    before = descriptors()
    output = Output(tmp_path / "out")
    with output.path.open("wb", buffering=0) as writer:
        writer.write(b"started ")
        assert output.read_until(b"started ", 5.0) == b"started "
        output.drain()
        for _ in range(4):
            writer.write(bytes(1 << 16))  # as much as the fifo holds: with nobody to read, the second would wait
        assert output.seen == b"started "
        output.close()
        assert draining() == []
        with pytest.raises(BrokenPipeError):
            writer.write(b"more")
    assert descriptors() == before


def test_a_reader_ends_with_the_output(tmp_path: Path) -> None:
    output = Output(tmp_path / "out")
    with output.path.open("wb", buffering=0) as writer:
        output.drain()
        writer.write(b"thrown away")
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "kvtest-drain out"]
    thread.join(5.0)
    assert not thread.is_alive()
    output.close()


def test_input_waits_for_its_reader(tmp_path: Path) -> None:
    stream = Input(tmp_path / "in")
    stream.open()
    with pytest.raises(DeadlineExceededError, match="somebody to read the input"):
        stream.write(b"early", 0.01)
    reader = os.open(stream.path, os.O_RDONLY | os.O_NONBLOCK)
    stream.write(b"late", 5.0)
    assert os.read(reader, 100) == b"late"
    with pytest.raises(DeadlineExceededError, match=r"the input to be read; last seen: \d+ of 1000000 bytes are left"):
        stream.write(bytes(1_000_000), 0.01)
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        stream.write(b"more", 5.0)
    stream.close()


def test_input_that_nobody_reads_can_be_closed(tmp_path: Path) -> None:
    stream = Input(tmp_path / "in")
    stream.open()
    stream.close()
    assert not stream.path.exists()


def test_input_that_nobody_has_come_to_open_yet_can_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one who opens the writing end comes to it after the other has opened the reading end."""
    stream = Input(tmp_path / "in")
    reading, really = threading.Event(), os.open

    def open_late(path: Path, flags: int) -> int:
        if flags & os.O_WRONLY:
            reading.wait(5.0)
        descriptor = really(path, flags)
        if not flags & os.O_WRONLY:
            reading.set()
        return descriptor

    monkeypatch.setattr(os, "open", open_late)
    stream.open()
    closing = threading.Thread(target=stream.close, daemon=True)
    closing.start()
    closing.join(2.0)
    stuck = closing.is_alive()
    if stuck:
        reader = really(stream.path, os.O_RDONLY | os.O_NONBLOCK)
        closing.join()
        os.close(reader)
    assert not stuck
