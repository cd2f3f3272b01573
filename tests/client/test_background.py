"""The task group of a client, producer or consumer: nothing survives it, nothing holds it up."""

import asyncio

from odradek.client.cluster.background import Background


async def test_a_start_that_is_cancelled_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    starting = asyncio.create_task(Background("test").start())
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    left = asyncio.all_tasks() - before
    async with asyncio.timeout(5):
        await asyncio.gather(*left, return_exceptions=True)


async def test_closing_ends_a_child_that_forgets_it_was_cancelled() -> None:
    background = Background("test")
    await background.start()
    forgot = asyncio.Event()

    async def child() -> None:
        while not forgot.is_set():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:  # as a TaskGroup does whose child fails meanwhile
                forgot.set()
        await asyncio.Event().wait()

    task = background.spawn(child(), name="child")
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await background.close()
    assert forgot.is_set()
    assert task.cancelled()
