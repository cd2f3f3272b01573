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
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Two clients in one process must not share, or break, one connection.
    ("grpc.use_local_subchannel_pool", 1),
    # We retry above, knowing what may be repeated; gRPC does not know.
    ("grpc.enable_retries", 0),
)


def open_channel(
    address: str, *, tls: TlsOptions | None = None, keepalive_s: float = 20.0
) -> grpc.aio.Channel:
    """Return a channel to `host:port`; it dials at its first call.

    Args:
        address: `host:port`.
        tls: None for plain text.
        keepalive_s: While calls are under way, a peer silent for so long is asked whether it is
            there, and given up when it does not answer within half of that.
    """
    options = (
        *_OPTIONS,
        ("grpc.keepalive_time_ms", int(keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(keepalive_s * 500)),
    )
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, tls.channel_credentials(), options=options)
