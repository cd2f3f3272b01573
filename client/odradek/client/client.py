"""The way in: one `Client` per cluster and event loop.

    async with Client("localhost:7070,localhost:7071") as client:
        await client.admin.create_topic("positions", partitions=6)
        async with client.producer(key=serdes.string, value=serdes.json) as producer:
            await producer.send("positions", key="van-7", value={"x": 1.0})

This is the SDK's composition root: nothing else constructs collaborators.

- `Scope` is what everyone is given: `connections` (one channel per node), `metadata` (the watched
  image), the client's `options`, `chance` for jitter, and `check()`, which raises when the client is
  closed, was forked, or is used in another loop. The client's own `Background` runs the watch.
- `producer(...)` makes `Producer(scope, options, key, value)`.
- `consumer(...)` makes `Consumer(scope, options, topics, key, value)`; `topics` are names.
- Both are entered with `async with`, have a `Background` of their own, and are closed before the
  client is: `close()` refuses new work, ends what is under way within its deadlines, and raises
  what nobody has heard of yet.

Invariant: construction does no I/O; entering waits for the first metadata image.
"""

import random
import warnings
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from odradek.client import serdes
from odradek.client.background import Background
from odradek.client.config import (
    Acks,
    ClientOptions,
    Compression,
    Partitioner,
    ProducerOptions,
    parse_bootstrap,
)
from odradek.client.scope import Scope
from odradek.client.serdes import Serde
from odradek.client.topic import Topic
from odradek.rpc.tls import TlsOptions
