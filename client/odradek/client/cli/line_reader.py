"""Lines from files, pipes and terminals, without blocking the event loop.

Problem: standard input may be a regular file, a pipe, a terminal or /dev/null, and asyncio can wait
for some of these only; a thread that waits for a terminal cannot be cancelled. Idea: one daemon
thread reads whatever is there (`os.read` returns as soon as something is) and hands over blocks of
whole lines; when nobody wants them any more it is left behind, and ends with the process.

Invariant: at most two blocks wait, so a slow cluster slows the reading.
"""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Iterator

_READ_BYTES = 256 * 1024
_BLOCKS_WAITING_MAX = 2

Block = list[bytes]


async def read_lines(descriptor: int) -> AsyncGenerator[Block, None]:
    """Yield blocks of lines, their line ends taken off, as they become available.

    Args:
        descriptor: An open file; not closed here.

    Raises:
        OSError: Reading failed.
    """
    loop = asyncio.get_running_loop()
    blocks: asyncio.Queue[Block | OSError | None] = asyncio.Queue(_BLOCKS_WAITING_MAX)
    given_up = threading.Event()

    def hand_over(item: Block | OSError | None) -> None:
        if not given_up.is_set() and not loop.is_closed():
            asyncio.run_coroutine_threadsafe(blocks.put(item), loop).result()

    def read() -> None:
        try:
            for block in _blocks(descriptor):
                hand_over(block)
                if given_up.is_set():
                    return
            hand_over(None)
        except OSError as error:
            hand_over(error)

    threading.Thread(target=read, name="line-reader", daemon=True).start()
    try:
        while (item := await blocks.get()) is not None:
            if isinstance(item, OSError):
                raise item
            yield item
    finally:
        given_up.set()
        while not blocks.empty():  # let the thread's last `put` through, so that it can end
            blocks.get_nowait()


def _blocks(descriptor: int) -> Iterator[Block]:
    rest = b""
    while data := os.read(descriptor, _READ_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        if lines:
            yield [line.removesuffix(b"\r") for line in lines]
    if rest:
        yield [rest.removesuffix(b"\r")]
