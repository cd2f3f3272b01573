"""The way in: one `Client` per cluster and event loop.

    async with Client("localhost:7070,localhost:7071") as client:
        await client.admin.create_topic("positions", partitions=6)
        async with client.producer(key=serdes.string, value=serdes.json) as producer:
            await producer.send("positions", key="van-7", value={"x": 1.0})

This is the SDK's composition root: nothing else constructs collaborators.

- `Scope` is what everyone is given: `connections` (one channel per node), `metadata` (the watched
  image), the client's `options`, `chance` for jitter, and `check()`, which raises when the client
  is closed, was forked, or is used in another loop. The client's own `Background` runs the watch.
- `producer(...)` makes `Producer(scope, options, key, value)`.
- `consumer(...)` makes `Consumer(scope, options, topics, key, value)`; `topics` are names.
- Both are entered with `async with`, have a `Background` of their own, and are closed before the
  client is: `close()` refuses new work, ends what is under way within its deadlines, and raises
  what nobody has heard of yet.

Invariant: construction does no I/O; entering waits for the first metadata image.
"""

import warnings
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from odradek.client import serdes
from odradek.client.administration.admin import Admin
from odradek.client.cluster.background import Background
from odradek.client.cluster.scope import Scope
from odradek.client.config import (
    ClientOptions,
    ConsumerOptions,
    ProducerOptions,
    default_client_id,
    parse_bootstrap,
)
from odradek.client.consumer import Consumer
from odradek.client.producer import Producer
from odradek.client.serdes import Serde
from odradek.client.settings import (
    ConsumerSettings,
    ProducerSettings,
    consumer_options,
    producer_options,
)
from odradek.client.topic import Topic
from odradek.protocol.names import check_topic_name
from odradek.rpc.tls import TlsOptions

K = TypeVar("K")
V = TypeVar("V")


class Client:
    """A connection to a cluster; entered with `async with`, once, in one event loop.

    Args:
        bootstrap: `host:port,host:port`: some nodes; the others are learnt. The port may be left
            out (7070).
        client_id: For logs, quotas and people; host name and process id by default.
        request_timeout_s: For one attempt of one request.
        operation_timeout_s: For entering, and for one administrative call with its retries.
        rack: This client's failure domain.
        tls: None for plain text.

    Raises:
        InvalidOptionsError: Lists every mistake.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        client_id: str | None = None,
        request_timeout_s: float = 10.0,
        operation_timeout_s: float = 30.0,
        rack: str = "",
        tls: TlsOptions | None = None,
    ) -> None:
        self._options = ClientOptions(
            bootstrap=parse_bootstrap(bootstrap),
            client_id=default_client_id() if client_id is None else client_id,
            request_timeout_s=request_timeout_s,
            operation_timeout_s=operation_timeout_s,
            rack=rack,
            tls=tls,
        )
        self._scope = Scope(self._options)
        self._background = Background("client")
        self._admin = Admin(self._scope)
        self._entered = False
        self._closed = False

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            NodesUnreachableError: No node answered within `operation_timeout_s`.
        """
        self._scope.open()
        self._entered = True
        await self._background.start()
        self._background.spawn(self._scope.metadata.run(), name="metadata")
        try:
            await self._scope.metadata.ready(timeout_s=self._options.operation_timeout_s)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        if getattr(self, "_entered", False) and not self._closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        return f"Client({','.join(self._options.bootstrap)!r})"

    async def close(self) -> None:
        """End every call under way and close every connection; a second call does nothing.

        Producers and consumers still open are not drained: leave their own blocks first. What a
        producer has accepted and not delivered fails at once with DeliveryAbandonedError, which
        says whether it may be in the log; every further call, and a consumer's loop that waits,
        raises ClientClosedError.
        """
        if self._closed:
            return
        self._closed = True
        self._scope.close()
        try:
            await self._background.close()
        finally:
            await self._scope.connections.close()

    @property
    def admin(self) -> Admin:
        """Topics, settings, groups and the cluster."""
        return self._admin

    @property
    def cluster_id(self) -> str:
        """The id of the cluster this client is connected to; empty before that."""
        return self._scope.metadata.image.cluster_id

    def topic(self, name: str, *, key: Serde[K], value: Serde[V]) -> Topic[K, V]:
        """Bind a topic's name to the types of its records.

        Raises:
            InvalidTopicError: The name is illegal.
        """
        return Topic(check_topic_name(name), key, value)

    @overload
    def producer(
        self, *, options: ProducerOptions | None = None, **settings: Unpack[ProducerSettings]
    ) -> Producer[bytes, bytes]: ...

    @overload
    def producer(
        self,
        *,
        key: Serde[K],
        options: ProducerOptions | None = None,
        **settings: Unpack[ProducerSettings],
    ) -> Producer[K, bytes]: ...

    @overload
    def producer(
        self,
        *,
        value: Serde[V],
        options: ProducerOptions | None = None,
        **settings: Unpack[ProducerSettings],
    ) -> Producer[bytes, V]: ...

    @overload
    def producer(
        self,
        *,
        key: Serde[K],
        value: Serde[V],
        options: ProducerOptions | None = None,
        **settings: Unpack[ProducerSettings],
    ) -> Producer[K, V]: ...

    def producer(
        self,
        *,
        key: Serde[Any] = serdes.raw,
        value: Serde[Any] = serdes.raw,
        options: ProducerOptions | None = None,
        **settings: Unpack[ProducerSettings],
    ) -> Producer[Any, Any]:
        """Return a producer, to be entered with `async with`.

        Args:
            key: Serde of the keys; bytes by default. A `Topic` passed to `send` brings its own.
            value: Serde of the values; bytes by default.
            options: A whole set of options.
            settings: Single options, each as documented in `ProducerOptions`; `acks` and
                `compression` also as text.

        Raises:
            InvalidOptionsError: Lists every mistake.
        """
        return Producer(self._scope, producer_options(options, settings), key, value)

    @overload
    def consumer(
        self,
        topic: Topic[K, V],
        /,
        *,
        options: ConsumerOptions | None = None,
        **settings: Unpack[ConsumerSettings],
    ) -> Consumer[K, V]: ...

    @overload
    def consumer(
        self,
        *topics: str,
        options: ConsumerOptions | None = None,
        **settings: Unpack[ConsumerSettings],
    ) -> Consumer[bytes, bytes]: ...

    @overload
    def consumer(
        self,
        *topics: str,
        key: Serde[K],
        options: ConsumerOptions | None = None,
        **settings: Unpack[ConsumerSettings],
    ) -> Consumer[K, bytes]: ...

    @overload
    def consumer(
        self,
        *topics: str,
        value: Serde[V],
        options: ConsumerOptions | None = None,
        **settings: Unpack[ConsumerSettings],
    ) -> Consumer[bytes, V]: ...

    @overload
    def consumer(
        self,
        *topics: str,
        key: Serde[K],
        value: Serde[V],
        options: ConsumerOptions | None = None,
        **settings: Unpack[ConsumerSettings],
    ) -> Consumer[K, V]: ...

    def consumer(
        self,
        *topics: str | Topic[Any, Any],
        key: Serde[Any] = serdes.raw,
        value: Serde[Any] = serdes.raw,
        options: ConsumerOptions | None = None,
        **settings: Unpack[ConsumerSettings],
    ) -> Consumer[Any, Any]:
        """Return a consumer, to be entered with `async with`.

        Args:
            topics: Names, or one `Topic`, which brings its serdes. None: use `Consumer.assign`.
            key: Serde of the keys; bytes by default.
            value: Serde of the values; bytes by default.
            options: A whole set of options.
            settings: Single options, each as documented in `ConsumerOptions`; `delivery` and
                `isolation` also as text.

        Raises:
            InvalidOptionsError: Lists every mistake.
            InvalidTopicError: A name is illegal.
        """
        chosen = consumer_options(options, settings)
        names: list[str] = []
        for topic in topics:
            if isinstance(topic, Topic):
                key, value = topic.key, topic.value
                names.append(topic.name)
            else:
                names.append(check_topic_name(topic))
        return Consumer(self._scope, chosen, names, key, value)
