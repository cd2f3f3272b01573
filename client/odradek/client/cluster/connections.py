"""One channel per node, shared by everything a client does.

A channel dials anew by itself; what is above it retries its own calls, since only that layer
knows what may be repeated. A channel is opened at the first use of its address, because making one
needs the running loop and a client's construction does no I/O.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeVar

import grpc

from odradek.client.errors import ClientClosedError
from odradek.rpc.channels import error_from_rpc, open_channel
from odradek.rpc.tls import TlsOptions
from odradek.v1 import admin_pb2_grpc, broker_pb2_grpc, group_pb2_grpc, metadata_pb2_grpc

Q = TypeVar("Q")
A = TypeVar("A")

_KEPT_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Connection:
    """A node's channel and its services.

    Attributes:
        address: `host:port`.
        channel: For streams with codecs of their own.
    """

    address: str
    channel: grpc.aio.Channel
    admin: "admin_pb2_grpc.AdminServiceAsyncStub"
    broker: "broker_pb2_grpc.BrokerServiceAsyncStub"
    group: "group_pb2_grpc.GroupServiceAsyncStub"
    metadata: "metadata_pb2_grpc.MetadataServiceAsyncStub"


class Connections:
    """The channels of one client, by address."""

    def __init__(self, *, tls: TlsOptions | None = None) -> None:
        self._tls = tls
        self._by_address: dict[str, Connection] = {}
        self._closed = False

    def to(self, address: str) -> Connection:
        """Return the connection to `host:port`.

        Raises:
            ClientClosedError: After `close`.
        """
        connection = self._by_address.get(address)
        if connection is None:
            if self._closed:
                raise ClientClosedError("the client is closed")
            connection = self._by_address[address] = self._open(address)
        return connection

    async def retain(self, addresses: Iterable[str]) -> None:
        """Close the channels of all other addresses: nodes that left or moved."""
        gone = self._by_address.keys() - set(addresses)
        await asyncio.gather(*(self._by_address.pop(each).channel.close() for each in gone))

    async def close(self) -> None:
        """Close every channel; calls under way fail with ConnectionLostError."""
        self._closed = True
        await self.retain(())

    def _open(self, address: str) -> Connection:
        _keep_freed_memory()
        channel = open_channel(address, tls=self._tls)
        return Connection(
            address,
            channel,
            admin_pb2_grpc.AdminServiceStub(channel),
            broker_pb2_grpc.BrokerServiceStub(channel),
            group_pb2_grpc.GroupServiceStub(channel),
            metadata_pb2_grpc.MetadataServiceStub(channel),
        )


@cache
def _keep_freed_memory() -> None:
    """Have the process keep what messages of a megabyte leave behind, up to twice 16 MiB.

    Mapping, zeroing and unmapping it for each message cost a fifth of what gRPC took to receive
    one. glibc maps no block smaller than the largest mapped one it saw freed, and keeps twice as
    much; this one is never touched, and in other C libraries nothing comes of it.

    Source: mallopt(3), M_MMAP_THRESHOLD: "dynamically adjusted".
    """
    large = bytes(_KEPT_BYTES)
    del large


async def unary(
    method: grpc.aio.UnaryUnaryMultiCallable[Q, A], request: Q, *, timeout_s: float
) -> A:
    """Make one call, once.

    Raises:
        BrokerError: What the node answered.
        ConnectionLostError, RequestTimedOutError: Unknown outcome.
    """
    try:
        return await method(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from error
