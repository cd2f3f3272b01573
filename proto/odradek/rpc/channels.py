"""Channels: one per peer, with the same limits and keep-alives everywhere.

The only place that dials. Reconnecting is quick on purpose (a broker that restarts is back within a
second), and a peer that vanished without a word is noticed by keep-alive pings.
"""

from typing import Final

import grpc

from odradek.rpc.errors import ConnectionLostError, error_from_rpc
from odradek.rpc.tls import TlsOptions

__all__ = ["MESSAGE_BYTES_MAX", "ConnectionLostError", "error_from_rpc", "open_channel"]

# A fetch push carries at most a few MiB, a metadata image of 10,000 partitions about 1 MiB.
MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Two clients in one process must not share, or break, one connection.
    ("grpc.use_local_subchannel_pool", 1),
    # We retry above, knowing what may be repeated; gRPC does not know.
    ("grpc.enable_retries", 0),
)


def open_channel(address: str, *, tls: TlsOptions | None = None) -> grpc.aio.Channel:
    """Return a channel to `host:port`; it dials at its first call.

    Args:
        address: `host:port`.
        tls: None for plain text.
    """
    if tls is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    return grpc.aio.secure_channel(address, tls.channel_credentials(), options=_OPTIONS)
