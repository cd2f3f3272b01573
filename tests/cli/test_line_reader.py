"""Lines from whatever standard input may be."""

import asyncio
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odradek.client.cli.line_reader import _blocks, read_lines


async def lines_of(descriptor: int) -> list[bytes]:
    return [line async for block in read_lines(descriptor) for line in block]


async def test_a_regular_file(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\r\ntwo\n\nlast without end")
    with path.open("rb") as file:
        assert await lines_of(file.fileno()) == [b"one", b"two", b"", b"last without end"]


async def test_nothing() -> None:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    try:
        assert await lines_of(descriptor) == []
    finally:
        os.close(descriptor)


async def test_a_pipe_gives_lines_before_it_ends() -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, b"now\nlat")
        blocks = read_lines(reading)
        assert await anext(blocks) == [b"now"]
        os.write(writing, b"er\n")
        os.close(writing)
        assert [block async for block in blocks] == [[b"later"]]
    finally:
        os.close(reading)


async def test_a_reader_that_is_left_does_not_keep_its_thread() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as pipe, os.fdopen(reading, "rb") as source:
        pipe.write(b"a\n")
        blocks = read_lines(source.fileno())
        assert await anext(blocks) == [b"a"]
        await blocks.aclose()
        before = {thread for thread in threading.enumerate() if thread.name == "line-reader"}
        pipe.write(b"b\n")  # wakes the thread, which finds nobody waiting
        for thread in before:
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()


async def test_a_failing_read_is_raised() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    os.close(reading)
    with pytest.raises(OSError, match="Bad file descriptor"):
        await lines_of(reading)


@given(
    st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line and b"\r" not in line))
)
def test_what_is_written_is_read(lines: list[bytes]) -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, b"".join(line + b"\n" for line in lines))
        os.close(writing)
        assert [line for block in _blocks(reading) for line in block] == lines
    finally:
        os.close(reading)
