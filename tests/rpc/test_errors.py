"""What the transport met, as an exception that says whether to try again."""

import grpc
import pytest

from odradek.protocol.errors import (
    InvalidRequestError,
    OdradekError,
    RequestTimedOutError,
    UnknownServerError,
)
from odradek.rpc.errors import ConnectionLostError, error_from_rpc


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", ConnectionLostError),
        (grpc.StatusCode.CANCELLED, "CANCELLED", ConnectionLostError),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2", ConnectionLostError),
        (grpc.StatusCode.INTERNAL, "Exception deserializing request!", UnknownServerError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", RequestTimedOutError),
        (grpc.StatusCode.UNIMPLEMENTED, "Method not found!", InvalidRequestError),
        (grpc.StatusCode.UNKNOWN, "Unexpected KeyError", UnknownServerError),
    ],
)
def test_statuses_without_our_error(
    code: grpc.StatusCode, details: str, kind: type[OdradekError]
) -> None:
    nothing = grpc.aio.Metadata()
    error = error_from_rpc(grpc.aio.AioRpcError(code, nothing, nothing, details=details))
    assert type(error) is kind
    assert details in error.message
