"""Exceptions to gRPC statuses and back: a `BrokerError` crosses the wire as itself.

A failed call carries the serialised `odradek.v1.Error` in its trailing metadata, so that the other
side raises the same class with the same fields. A failure of the transport itself has no such
message and becomes `ConnectionLostError` or `RequestTimedOutError`: its outcome is unknown.
"""

import grpc
from google.protobuf.message import DecodeError

from odradek.protocol.errors import (
    BrokerError,
    InvalidRequestError,
    OdradekError,
    RequestTimedOutError,
    UnknownServerError,
    error_from_proto,
    error_to_proto,
)
from odradek.v1 import error_pb2

ERROR_METADATA_KEY = "odradek-error-bin"

# How a stream is said to have broken.
_BROKEN_STREAM = ("RST_STREAM", "GOAWAY")


class ConnectionLostError(OdradekError):
    """The peer could not be reached, or the connection broke; the outcome is unknown."""

    retriable = True
    refreshes_metadata = True


def status_for(error: BrokerError) -> grpc.StatusCode:
    """Return the status that tools without our metadata should see."""
    if isinstance(error, UnknownServerError):
        return grpc.StatusCode.INTERNAL
    return grpc.StatusCode.UNAVAILABLE if error.retriable else grpc.StatusCode.INVALID_ARGUMENT


def error_metadata(error: BrokerError) -> tuple[tuple[str, bytes], ...]:
    """Return the trailing metadata that carries an error."""
    return ((ERROR_METADATA_KEY, error_to_proto(error).SerializeToString()),)


def error_from_rpc(error: grpc.aio.AioRpcError) -> OdradekError:
    """Rebuild what the peer raised, or name what the transport met."""
    for key, value in error.trailing_metadata() or ():
        if key == ERROR_METADATA_KEY and isinstance(value, bytes):
            try:
                return error_from_proto(error_pb2.Error.FromString(value))
            except DecodeError:
                break
    details = error.details() or error.code().name
    match error.code():
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return RequestTimedOutError(f"no answer within the deadline: {details}")
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            return ConnectionLostError(details)
        case grpc.StatusCode.INTERNAL if any(sign in details for sign in _BROKEN_STREAM):
            return ConnectionLostError(details)
        case grpc.StatusCode.RESOURCE_EXHAUSTED | grpc.StatusCode.UNIMPLEMENTED:
            return InvalidRequestError(details)
        case _:
            return UnknownServerError(f"{error.code().name}: {details}")
