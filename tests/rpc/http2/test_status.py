"""What stands in the headers of a call."""

import pytest
from grpc import StatusCode

from odradek.rpc.http2.status import (
    NoGrpcError,
    Status,
    parse_request,
    parse_trailers,
    request_headers,
    trailers,
)
from tests.rpc.http2.peers import REQUEST


@pytest.mark.parametrize(
    ("text", "timeout_s"),
    [("2H", 7200.0), ("3M", 180.0), ("4S", 4.0), ("5m", 0.005), ("6u", 6e-6), ("7n", 7e-9)],
)
def test_a_deadline_in_any_unit_is_understood(text: str, timeout_s: float) -> None:
    request = parse_request([*REQUEST, ("grpc-timeout", text)])
    assert request.timeout_s == pytest.approx(timeout_s)


@pytest.mark.parametrize("text", ["", "5", "S", "-1S", "1.5S", "123456789S", "1h", "1 S"])
def test_a_deadline_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(NoGrpcError):
        parse_request([*REQUEST, ("grpc-timeout", text)])


@pytest.mark.parametrize("timeout_s", [-1.0, 0.0, 1e-9, 0.25, 99_999.9, 10.0**7])
def test_a_deadline_is_said_as_it_is_understood(timeout_s: float) -> None:
    request = parse_request(request_headers("/a/b", "c", "http", timeout_s))
    assert request.timeout_s == pytest.approx(max(timeout_s, 0.001), rel=1e-4)


@pytest.mark.parametrize("number", ["", "x", "-1", "1.0", "77", "9" * 5_000])
def test_a_status_that_is_none_is_unknown(number: str) -> None:
    assert parse_trailers([("grpc-status", number)]).code is StatusCode.UNKNOWN


@pytest.mark.parametrize("details", ["", "plain", "ü ☃ 𝄞", "a\r\n\tb", "100 %41 %", "\x7f"])
def test_details_come_back_as_they_were_said(details: str) -> None:
    status = Status(StatusCode.ABORTED, details, (("a-bin", b"\0\xff"), ("b", "c")))
    headers = trailers(status, only=False)
    assert all(value.isascii() and value.isprintable() for _, value in headers)
    assert parse_trailers(headers) == status


def test_details_that_are_no_text_are_said_somehow() -> None:
    said = parse_trailers(trailers(Status(StatusCode.ABORTED, "a\udcffb"), only=True))
    assert said.code is StatusCode.ABORTED
    assert said.details.startswith("a")
