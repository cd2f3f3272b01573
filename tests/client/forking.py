"""A program that forks with clients open; `test_forks` runs it.

A process of its own, because gRPC reads its environment when it is first imported.
"""
# ruff: noqa: T201

import asyncio
import os
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from odradek.client import Client, blocking  # isort: skip  before anything imports gRPC
from odradek.client.blocking.portal import Portal
from tests.client.fake_node import FakeCluster


def raised_in_child(action: Callable[[], object]) -> str:
    """Run an action in a forked child; return the name of what it raised."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        name = "nothing"
        try:
            action()
        except Exception as error:  # noqa: BLE001 the parent judges
            name = type(error).__name__
        os.write(writing, name.encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        return f"{pipe.read()} {status}"


def main() -> None:
    portal = Portal("cluster")
    portal.start()
    cluster = FakeCluster()
    portal.call(cluster.start_node())
    portal.run(cluster.create_topic, "t")
    with blocking.Client(cluster.bootstrap) as client, client.producer() as producer:
        producer.send("t", b"v")
        print("blocking send:", raised_in_child(lambda: producer.send("t", b"v")))
        print("blocking admin:", raised_in_child(client.admin.list_topics))
        print("parent:", producer.send("t", b"the parent goes on").offset)
    asyncio.run(asynchronous(cluster))
    portal.call(cluster.stop())
    portal.stop()


async def asynchronous(cluster: FakeCluster) -> None:
    async with Client(cluster.bootstrap) as client, client.producer() as producer:
        await producer.send("t", b"v")
        for name, use in (
            ("send", lambda: producer.send("t", b"v")),
            ("admin", client.admin.list_topics),
            ("enter", lambda: client.producer().__aenter__()),
        ):
            print(f"asyncio {name}:", raised_in_child(partial(run, use)))
        print("parent:", (await producer.send("t", b"v")).offset)


def run(use: Callable[[], Coroutine[Any, Any, object]]) -> None:
    asyncio.run(use())


if __name__ == "__main__":
    main()
