"""Channels: one per peer, with the same limits and keep-alives everywhere.

The only place that dials. Reconnecting is quick on purpose (a broker that restarts is back within a
second), and a peer that vanished without a word is noticed by keep-alive pings.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import grpc

from odradek.rpc.errors import ConnectionLostError, error_from_rpc
from odradek.rpc.http2.calls import Call
from odradek.rpc.http2.channel import Channel
from odradek.rpc.http2.streams import MESSAGE_BYTES_MAX
from odradek.rpc.tls import TlsOptions

__all__ = [
    "MESSAGE_BYTES_MAX",
    "Call",
    "ConnectionLostError",
    "converse",
    "error_from_rpc",
    "open_channel",
]

Q = TypeVar("Q")
A = TypeVar("A")


def converse(
    channel: grpc.aio.Channel,
    method: str,
    *,
    encode: Callable[[Q], bytes] | None,
    decode: Callable[[bytes], A] | None,
) -> Call[Q, A]:
    """Begin a call with streams both ways, of which the answers can be listened to.

    Args:
        channel: From `open_channel`.
        method: `/service/method`.
        encode: None: requests are bytes.
        decode: None: answers are bytes.
    """
    return cast("Channel", channel).stream_stream(method, encode, decode)()


def open_channel(
    address: str, *, tls: TlsOptions | None = None, keepalive_s: float = 20.0
) -> grpc.aio.Channel:
    """Return a channel to `host:port`; it dials at its first call.

    It is what generated stubs and ours use of a `grpc.aio.Channel`, without gRPC's core beneath.

    Args:
        address: `host:port`.
        tls: None for plain text.
        keepalive_s: While calls are under way, a peer silent for so long is asked whether it is
            there, and given up when it does not answer within half of that.
    """
    context = None if tls is None else tls.channel_context()
    return cast("grpc.aio.Channel", Channel(address, context=context, keepalive_s=keepalive_s))
