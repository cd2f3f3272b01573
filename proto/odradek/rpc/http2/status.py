"""What stands in the headers of a call: its method and deadline, and how it ended. Pure.

Source: gRPC over HTTP/2 (PROTOCOL-HTTP2.md), "Requests" and "Responses";
http-grpc-status-mapping.md.
"""

import binascii
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import unquote

from grpc import StatusCode

from odradek.rpc.http2.frames import ErrorCode
from odradek.rpc.http2.streams import Headers

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

_BINARY: Final = "-bin"
_CONTENT_TYPE: Final = "application/grpc"
_CODES: Final = {code.value[0]: code for code in StatusCode}
_UNITS_S: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT_DIGITS: Final = 8
_TIMEOUT_MS_MAX: Final = 10**_TIMEOUT_DIGITS - 1
_CODE_DIGITS: Final = 3
_DETAILS_BYTES_MAX: Final = 2_048  # gRPC's core may refuse headers of more than 8 KiB in all
_METADATA_BYTES_MAX: Final = 32 << 10
_NOT_METADATA: Final = {"te", "content-type", "user-agent"}
_HALF_ESCAPED: Final = re.compile("%.?$")
_UNPRINTABLE: Final = re.compile(rb"[^\x20-\x24\x26-\x7e]")
_BY_HTTP_STATUS: Final = {
    "400": StatusCode.INTERNAL,
    "401": StatusCode.UNAUTHENTICATED,
    "403": StatusCode.PERMISSION_DENIED,
    "404": StatusCode.UNIMPLEMENTED,
    "429": StatusCode.UNAVAILABLE,
    "502": StatusCode.UNAVAILABLE,
    "503": StatusCode.UNAVAILABLE,
    "504": StatusCode.UNAVAILABLE,
}
_BY_ERROR_CODE: Final = {
    ErrorCode.REFUSED_STREAM: StatusCode.UNAVAILABLE,
    ErrorCode.CANCEL: StatusCode.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
}


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ended."""

    code: StatusCode
    details: str = ""
    metadata: Metadata = ()


OK: Final = Status(StatusCode.OK)


@dataclass(frozen=True, slots=True)
class Request:
    """What a call asks for.

    Attributes:
        path: `/service/method`.
        timeout_s: How long the caller waits; None: for ever.
        metadata: What else it says.
    """

    path: str
    timeout_s: float | None = None
    metadata: Metadata = ()


class NoGrpcError(Exception):
    """The request is none of gRPC's; `http_status` is the answer."""

    def __init__(self, http_status: str) -> None:
        super().__init__(http_status)
        self.http_status = http_status


def request_headers(path: str, authority: str, scheme: str, timeout_s: float | None) -> Headers:
    """Return the headers that begin a call."""
    headers = [
        (":method", "POST"),
        (":scheme", scheme),
        (":path", path),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", _CONTENT_TYPE),
        ("user-agent", "odradek"),
    ]
    if timeout_s is not None:
        timeout_ms = max(1, round(timeout_s * 1000))
        unit = f"{timeout_ms}m" if timeout_ms <= _TIMEOUT_MS_MAX else f"{timeout_ms // 1000}S"
        headers.append(("grpc-timeout", unit))
    return headers


def parse_request(headers: Headers) -> Request:
    """Return what the headers that begin a call ask for.

    Raises:
        NoGrpcError: They are none of gRPC's.
    """
    named = dict(headers)
    if not named.get("content-type", "").startswith(_CONTENT_TYPE):
        raise NoGrpcError("415")
    if named.get(":method") != "POST":
        raise NoGrpcError("405")
    timeout = named.get("grpc-timeout")
    try:
        timeout_s = None if timeout is None else _parse_timeout(timeout)
    except ValueError:
        raise NoGrpcError("400") from None
    return Request(named.get(":path", ""), timeout_s, _metadata(headers))


def response_headers() -> Headers:
    """Return the headers that begin an answer."""
    return [(":status", "200"), ("content-type", _CONTENT_TYPE)]


def trailers(status: Status, *, only: bool) -> Headers:
    """Return the headers that end an answer; `only`: and begin it."""
    headers = response_headers() if only else []
    headers.append(("grpc-status", str(status.code.value[0])))
    if status.details:
        headers.append(("grpc-message", _escape(status.details)))
    room_bytes = _METADATA_BYTES_MAX
    for key, value in status.metadata:
        text = b64encode(value).rstrip(b"=").decode() if isinstance(value, bytes) else value
        room_bytes -= len(text)
        if room_bytes >= 0:
            headers.append((key, text))
    return headers


def parse_response(headers: Headers) -> Status | None:
    """Return why what comes is no answer of gRPC's; None when it is one."""
    named = dict(headers)
    http_status = named.get(":status", "")
    if http_status != "200":
        code = _BY_HTTP_STATUS.get(http_status, StatusCode.UNKNOWN)
        return Status(code, f"the peer answered with HTTP status {http_status or 'none'}")
    if not named.get("content-type", _CONTENT_TYPE).startswith(_CONTENT_TYPE):
        return Status(StatusCode.UNKNOWN, f"the peer answered {named['content-type']!r}")
    return None


def parse_trailers(headers: Headers) -> Status:
    """Return how a call ended."""
    named = dict(headers)
    number = named.get("grpc-status", "")
    is_number = number.isdecimal() and len(number) <= _CODE_DIGITS
    code = _CODES.get(int(number)) if is_number else None
    if code is None:
        return Status(StatusCode.UNKNOWN, f"the call ended with status {number!r}")
    return Status(code, unquote(named.get("grpc-message", "")), _metadata(headers))


def reset_status(error_code: int) -> Status:
    """Return how a call ended whose stream the peer reset."""
    try:
        known = ErrorCode(error_code)
    except ValueError:
        return Status(StatusCode.INTERNAL, f"RST_STREAM with code {error_code}")
    code = _BY_ERROR_CODE.get(known, StatusCode.INTERNAL)
    return Status(code, f"RST_STREAM with {known.name}")


def _metadata(headers: Headers) -> Metadata:
    metadata: list[tuple[str, str | bytes]] = []
    for key, text in headers:
        if key.startswith((":", "grpc-")) or key in _NOT_METADATA:
            continue
        if key.endswith(_BINARY):
            try:
                metadata.append((key, b64decode(text + "=" * (-len(text) % 4))))
            except (binascii.Error, ValueError):
                continue
        else:
            metadata.append((key, text))
    return tuple(metadata)


def _parse_timeout(text: str) -> float:
    digits, unit = text[:-1], text[-1:]
    if not digits.isdecimal() or len(digits) > _TIMEOUT_DIGITS or unit not in _UNITS_S:
        raise ValueError(text)
    return int(digits) * _UNITS_S[unit]


def _escape(details: str) -> str:
    """Percent-encode what may not stand in a header."""
    plain = details[:_DETAILS_BYTES_MAX].encode(errors="replace")
    escaped = _UNPRINTABLE.sub(lambda byte: b"%%%02X" % byte[0][0], plain).decode()
    return _HALF_ESCAPED.sub("", escaped[:_DETAILS_BYTES_MAX])
