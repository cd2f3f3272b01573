"""HTTP/2 frames as bytes. Pure.

Source: RFC 9113, sections 4, 6 and 7.
"""

import enum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES: Final = 9
FRAME_BYTES_DEFAULT: Final = 16_384
FRAME_BYTES_MAX: Final = (1 << 24) - 1
WINDOW_BYTES_DEFAULT: Final = 65_535
WINDOW_BYTES_MAX: Final = (1 << 31) - 1
HEADER_TABLE_BYTES: Final = 4_096

# Kinds of frames: plain numbers, since one is compared for each frame that comes.
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 1
ACK: Final = 1
END_HEADERS: Final = 4
PADDED: Final = 8
HAS_PRIORITY: Final = 32


class ErrorCode(enum.IntEnum):
    """Why a stream or a connection ended."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(enum.IntEnum):
    """What one side tells the other about itself."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


HEADER: Final = Struct(">HBBBI")
"""Length (its upper 16 bits, its lower 8), kind, flags, stream id."""
NUMBER: Final = Struct(">I")
_SETTING: Final = Struct(">HI")
_TWO_NUMBERS: Final = Struct(">II")
_REASON_BYTES_MAX: Final = 200


def encode(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    size = len(payload)
    return HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def encode_settings(settings: dict[Setting, int]) -> bytes:
    """Return a SETTINGS frame."""
    return encode(SETTINGS, 0, 0, b"".join(map(_SETTING.pack, settings, settings.values())))


def encode_window_update(stream_id: int, size_bytes: int) -> bytes:
    """Return a WINDOW_UPDATE frame; stream 0 stands for the connection."""
    return encode(WINDOW_UPDATE, 0, stream_id, NUMBER.pack(size_bytes))


def encode_reset(stream_id: int, code: ErrorCode) -> bytes:
    """Return an RST_STREAM frame."""
    return encode(RST_STREAM, 0, stream_id, NUMBER.pack(code))


def encode_goaway(last_stream_id: int, code: ErrorCode, reason: str = "") -> bytes:
    """Return a GOAWAY frame."""
    why = reason.encode(errors="replace")[:_REASON_BYTES_MAX]
    return encode(GOAWAY, 0, 0, _TWO_NUMBERS.pack(last_stream_id, code) + why)


def decode_settings(payload: bytes) -> list[tuple[int, int]]:
    """Return the settings of a frame, unknown ones too.

    Raises:
        ValueError: The payload is not made of settings.
    """
    if len(payload) % _SETTING.size:
        raise ValueError(f"{len(payload)} bytes of settings")
    return list(_SETTING.iter_unpack(payload))


def decode_goaway(payload: bytes) -> tuple[int, int]:
    """Return the last stream that was dealt with, and an error code; a short one says nothing."""
    if len(payload) < _TWO_NUMBERS.size:
        return 0, ErrorCode.FRAME_SIZE_ERROR
    last_id, code = _TWO_NUMBERS.unpack_from(payload)
    return last_id & WINDOW_BYTES_MAX, code
