"""The blocking way in: the same names as `odradek.client`, without `await`.

    with Client("localhost:7070") as client:
        client.admin.create_topic("orders", partitions=3)
        with client.producer(key=serdes.string, value=serdes.json) as producer:
            producer.send("orders", key="customer-1", value={"count": 2})

One implementation: everything runs in the asyncio client, in one loop in one thread.
"""

import threading
import warnings
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from odradek.client import client as asynchronous
from odradek.client import serdes
from odradek.client.blocking.admin import Admin
from odradek.client.blocking.consumer import Consumer
from odradek.client.blocking.portal import Portal
from odradek.client.blocking.producer import Producer
from odradek.client.config import ConsumerOptions, ProducerOptions
from odradek.client.errors import ClientClosedError
from odradek.client.producer import Producer as AsyncProducer
from odradek.client.serdes import Serde
from odradek.client.settings import ConsumerSettings, ProducerSettings, producer_options
from odradek.client.topic import Topic
from odradek.rpc.tls import TlsOptions

K = TypeVar("K")
V = TypeVar("V")


class Client:
    """A connection to a cluster for threads; entered with `with`, once.

    Arguments and errors as `odradek.client.Client`.
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
        self._inner = asynchronous.Client(
            bootstrap,
            client_id=client_id,
            request_timeout_s=request_timeout_s,
            operation_timeout_s=operation_timeout_s,
            rack=rack,
            tls=tls,
        )
        self._portal = Portal(f"odradek {bootstrap}")
        self._admin = Admin(self._inner.admin, self._portal)
        self._entered = False
        self._closed = False

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            NodesUnreachableError: No node answered within `operation_timeout_s`.
        """
        if self._entered:
            raise ClientClosedError("a client is entered once; make another one")
        self._entered = True
        self._portal.start()
        try:
            self._portal.call(self._inner.__aenter__())
        except BaseException:
            self._closed = True
            self._portal.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_entered", False) and not self._closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        return f"blocking.{self._inner!r}"

    def close(self) -> None:
        """End every call under way and close every connection; a second call does nothing."""
        if self._closed or not self._entered:
            return
        self._closed = True
        try:
            self._portal.call(self._inner.close())
        finally:
            self._portal.stop()

    @property
    def admin(self) -> Admin:
        """Topics, settings, groups and the cluster."""
        return self._admin

    @property
    def cluster_id(self) -> str:
        """The id of the cluster this client is connected to; empty before that."""
        return self._inner.cluster_id

    def topic(self, name: str, *, key: Serde[K], value: Serde[V]) -> Topic[K, V]:
        """Bind a topic's name to the types of its records."""
        return self._inner.topic(name, key=key, value=value)

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
        """Return a producer, to be entered with `with`; as `odradek.client.Client.producer`."""
        chosen = producer_options(options, settings)
        lock = threading.RLock()
        inner = AsyncProducer(self._inner._scope, chosen, key, value, lock=lock)  # noqa: SLF001
        return Producer(inner, lock, self._portal)

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
        """Return a consumer, to be entered with `with`; as `odradek.client.Client.consumer`."""
        make: Any = self._inner.consumer  # its overloads know the types, this call does not
        inner = make(*topics, key=key, value=value, options=options, **settings)
        return Consumer(inner, self._portal)
