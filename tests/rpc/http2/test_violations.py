"""The pure core: who breaks the protocol is told so, and shut out."""

import struct

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odradek.rpc.http2 import frames
from odradek.rpc.http2.connection import Connection
from odradek.rpc.http2.credit import CONNECTION_WINDOW_BYTES
from odradek.rpc.http2.frames import ErrorCode
from odradek.rpc.http2.streams import ProtocolViolationError
from tests.rpc.http2.peers import (
    REQUEST,
    Blocks,
    data,
    goaway_code,
    grants,
    greeted_client,
    greeted_server,
    prefixed,
    sent,
    split,
)

BLOCK = Blocks().encode(REQUEST)
HEADERS_OPEN = frames.encode(frames.HEADERS, 0, 3, BLOCK)
PING = frames.encode(frames.PING, 0, 0, bytes(8))


def setting(number: int, value: int) -> bytes:
    return frames.encode(frames.SETTINGS, 0, 0, struct.pack(">HI", number, value))


def continuation(payload: bytes = b"", flags: int = 0, stream_id: int = 3) -> bytes:
    return frames.encode(frames.CONTINUATION, flags, stream_id, payload)


VIOLATIONS: dict[str, tuple[bytes, ErrorCode]] = {
    "beyond the stream's window": (
        data(1, prefixed(bytes(5 << 20))),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "a window grows by nothing": (frames.encode_window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "the connection's window overflows": (
        frames.encode_window_update(0, (1 << 31) - 1),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "a stream's window overflows": (
        frames.encode_window_update(1, (1 << 31) - 1),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "a window update too short": (
        frames.encode(frames.WINDOW_UPDATE, 0, 0, b"\0"),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "a frame too large": (
        frames.encode(frames.HEADERS, 4, 3, bytes((64 << 10) + 1)),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "a continuation of nothing": (continuation(BLOCK, 4), ErrorCode.PROTOCOL_ERROR),
    "a continuation of others": (
        HEADERS_OPEN + continuation(flags=4, stream_id=5),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "too many continuations": (HEADERS_OPEN + continuation() * 99, ErrorCode.ENHANCE_YOUR_CALM),
    "continuations too large": (
        HEADERS_OPEN + continuation(bytes(16_000)) * 5,
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "a ping amid headers": (HEADERS_OPEN + PING, ErrorCode.PROTOCOL_ERROR),
    "data amid headers": (HEADERS_OPEN + data(1, b""), ErrorCode.PROTOCOL_ERROR),
    "bad compression": (
        frames.encode(frames.HEADERS, 4, 3, b"\xff\xff\xff\xff"),
        ErrorCode.COMPRESSION_ERROR,
    ),
    "an even stream": (frames.encode(frames.HEADERS, 4, 4, BLOCK), ErrorCode.PROTOCOL_ERROR),
    "data on an idle stream": (data(7, b"12345"), ErrorCode.PROTOCOL_ERROR),
    "empty data on an idle stream": (data(7, b""), ErrorCode.PROTOCOL_ERROR),
    "a second end": (data(1, b"", ends=True) * 2, ErrorCode.STREAM_CLOSED),
    "data on the connection": (data(0, b"12345"), ErrorCode.PROTOCOL_ERROR),
    "a reset of an idle stream": (
        frames.encode_reset(7, ErrorCode.CANCEL),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "data after the end": (
        data(1, b"", ends=True) + data(1, prefixed(b"")),
        ErrorCode.STREAM_CLOSED,
    ),
    "a push": (frames.encode(frames.PUSH_PROMISE, 4, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "a ping of wrong size": (
        frames.encode(frames.PING, 0, 0, bytes(7)),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "more padding than data": (
        frames.encode(frames.DATA, frames.PADDED, 1, b"\x09abc"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "more padding than headers": (
        frames.encode(frames.HEADERS, frames.PADDED | 4, 3, b"\xff" + BLOCK),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "half a setting": (
        frames.encode(frames.SETTINGS, 0, 0, bytes(5)),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "an initial window too large": (setting(4, 1 << 31), ErrorCode.FLOW_CONTROL_ERROR),
    "frames too small": (setting(5, 16_383), ErrorCode.PROTOCOL_ERROR),
    "frames too large": (setting(5, 1 << 24), ErrorCode.PROTOCOL_ERROR),
}


def check_goaway(connection: Connection, violation: ProtocolViolationError) -> None:
    assert goaway_code(sent(connection)) is violation.code


def violation_of(server: Connection, raw: bytes) -> ErrorCode:
    with pytest.raises(ProtocolViolationError) as caught:
        server.receive(raw)
    code = goaway_code(sent(server))
    assert code is caught.value.code
    return code


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_ends_the_connection_with_its_code(name: str) -> None:
    raw, code = VIOLATIONS[name]
    server = greeted_server()
    server.receive(Blocks().opened(1))
    assert violation_of(server, raw) is code


@pytest.mark.parametrize("raw", [b"GET / HTTP/1.1\r\n\r\n", b"\0", frames.PREFACE[:-1] + b"\r"])
def test_what_is_no_preface_ends_the_connection(raw: bytes) -> None:
    server = Connection(is_client=False)
    sent(server)
    assert violation_of(server, raw) is ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "raw",
    [PING, frames.encode_window_update(0, 1), frames.encode(frames.SETTINGS, frames.ACK, 0)],
    ids=["a ping", "a window update", "an acknowledgement"],
)
@pytest.mark.parametrize("is_client", [True, False])
def test_settings_come_first(raw: bytes, is_client: bool) -> None:  # noqa: FBT001
    connection = Connection(is_client=is_client)
    sent(connection)
    raw = raw if is_client else frames.PREFACE + raw
    assert violation_of(connection, raw) is ErrorCode.PROTOCOL_ERROR


def test_data_beyond_the_connections_window_ends_the_connection() -> None:
    server, blocks = greeted_server(), Blocks()
    ids = range(1, 200, 2)
    server.receive(b"".join(map(blocks.opened, ids)))
    message, window = prefixed(bytes((4 << 20) - 5)), CONNECTION_WINDOW_BYTES
    for each in ids:
        if window < len(message):
            raw = data(each, message)
            break
        server.receive(data(each, message))
        window += grants(sent(server))[0] - len(message)
    assert violation_of(server, raw) is ErrorCode.FLOW_CONTROL_ERROR


def test_a_header_bomb_ends_the_connection() -> None:
    server, blocks = greeted_server(), Blocks()
    value = "x" * 3_900
    server.receive(blocks.opened(1, [*REQUEST, ("bomb", value)]))
    bomb = blocks.encode([("bomb", value)]) * 1_000
    raw = frames.encode(frames.HEADERS, frames.END_HEADERS, 3, bomb)
    assert violation_of(server, raw) is ErrorCode.COMPRESSION_ERROR


def test_a_reason_fits_a_frame_that_every_peer_takes() -> None:
    server = greeted_server()
    raw = frames.encode(frames.HEADERS, frames.END_HEADERS, 1, b"\x7f" + b"\x80" * 60_000)
    with pytest.raises(ProtocolViolationError):
        server.receive(raw)
    assert max(len(payload) for _, _, _, payload in split(sent(server))) <= 16_384


@given(st.binary(max_size=200))
def test_any_bytes_as_headers_are_taken_or_end_the_connection(block: bytes) -> None:
    server = greeted_server()
    try:
        server.receive(frames.encode(frames.HEADERS, frames.END_HEADERS, 1, block))
    except ProtocolViolationError as violation:
        check_goaway(server, violation)


FRAME = st.builds(
    frames.encode,
    st.integers(0, 11),
    st.integers(0, 255),
    st.integers(0, 6),
    st.one_of(st.binary(max_size=20), st.just(BLOCK)),
)


@given(st.booleans(), st.lists(FRAME, max_size=12))
def test_any_frames_are_taken_or_end_the_connection(
    is_client: bool,  # noqa: FBT001
    some: list[bytes],
) -> None:
    connection = greeted_client() if is_client else greeted_server()
    if is_client:
        connection.open(REQUEST)
        sent(connection)
    try:
        connection.receive(b"".join(some))
    except ProtocolViolationError as violation:
        check_goaway(connection, violation)


@pytest.mark.parametrize(
    "raw",
    [
        PING,
        frames.encode_settings({}),
        frames.encode(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 0, BLOCK),
    ],
    ids=["pings", "settings", "refused streams"],
)
def test_a_flood_of_what_wants_answers_that_are_not_taken_ends(raw: bytes) -> None:
    server = greeted_server(streams_max=0)
    server.sender.is_paused = True
    codes: list[ErrorCode] = []
    for turn in range(2_000):
        one = frames.HEADER.pack(0, len(raw) - frames.HEADER_BYTES, raw[3], raw[4], 2 * turn + 1)
        frame = one + raw[frames.HEADER_BYTES :] if raw[3] == frames.HEADERS else raw
        try:
            server.receive(frame)
        except ProtocolViolationError as violation:
            check_goaway(server, violation)
            codes.append(violation.code)
            break
    assert codes == [ErrorCode.ENHANCE_YOUR_CALM]


def test_a_peer_that_takes_its_answers_may_ask_for_many() -> None:
    server = greeted_server()
    for _ in range(20):
        server.sender.is_paused = True
        server.receive(PING * 200)
        server.resume()
    assert len(list(split(sent(server)))) == 4_000


def test_settings_of_the_header_table_do_not_pile_up() -> None:
    server = greeted_server()
    sizes = b"".join(struct.pack(">HI", 1, each % 2 * 100) for each in range(10_000))
    server.receive(frames.encode(frames.SETTINGS, 0, 0, sizes) * 2)
    server.receive(Blocks().opened(1))
    sent(server)
    server.sender.headers(server.streams[1], [("a", "b")])
    ((_, _, _, block),) = split(sent(server))
    assert len(block) < 100
    hpack.Decoder().decode(block)
