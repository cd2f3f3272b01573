"""A hand-made other end of an HTTP/2 connection: says what a test wants, believes nothing."""

from collections import defaultdict
from collections.abc import Iterator
from typing import cast

import hpack

from odradek.rpc.http2 import frames
from odradek.rpc.http2.connection import Connection
from odradek.rpc.http2.frames import ErrorCode, Setting
from odradek.rpc.http2.streams import PREFIX, Headers

REQUEST: Headers = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test.Echo/Unary"),
    (":authority", "a"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]
GREETING = frames.PREFACE + frames.encode_settings({})
Frame = tuple[int, int, int, bytes]


def prefixed(message: bytes, flag: int = 0) -> bytes:
    return PREFIX.pack(flag, len(message)) + message


def data(
    stream_id: int, payload: bytes, *, ends: bool = False, padding: int | None = None
) -> bytes:
    flags = frames.END_STREAM if ends else 0
    if padding is not None:
        payload = bytes([padding]) + payload + bytes(padding)
        flags |= frames.PADDED
    return frames.encode(frames.DATA, flags, stream_id, payload)


def split(raw: bytes) -> Iterator[Frame]:
    """Cut what is whole frames."""
    position = 0
    while position < len(raw):
        upper, lower, kind, flags, stream_id = frames.HEADER.unpack_from(raw, position)
        start = position + frames.HEADER_BYTES
        position = start + (upper << 8 | lower)
        assert position <= len(raw), "half a frame"
        yield kind, flags, stream_id, raw[start:position]


def sent(connection: Connection) -> bytes:
    """Take what a connection has to write."""
    raw = b"".join(connection.out)
    connection.out.clear()
    return raw


class Blocks:
    """Header frames of one connection."""

    def __init__(self) -> None:
        self._encoder = hpack.Encoder()

    def encode(self, headers: Headers) -> bytes:
        return self._encoder.encode(headers)

    def opened(self, stream_id: int, headers: Headers = REQUEST, *, ends: bool = False) -> bytes:
        flags = frames.END_HEADERS | (frames.END_STREAM if ends else 0)
        return frames.encode(frames.HEADERS, flags, stream_id, self.encode(headers))


def greeted_server(streams_max: int = 100) -> Connection:
    server = Connection(is_client=False, streams_max=streams_max)
    server.receive(GREETING)
    sent(server)
    return server


def greeted_client() -> Connection:
    client = Connection(is_client=True)
    client.receive(frames.encode_settings({}))
    sent(client)
    return client


class StrictPeer:
    """Fails on any frame beyond the windows and sizes that it has announced."""

    def __init__(self, *, stream_window: int, frame_max: int) -> None:
        self.stream_window = stream_window
        self.frame_max = frame_max
        self.connection_window = frames.WINDOW_BYTES_DEFAULT
        self.windows: defaultdict[int, int] = defaultdict(lambda: self.stream_window)
        self.data: defaultdict[int, bytearray] = defaultdict(bytearray)
        self.trailers: dict[int, Headers] = {}
        self.ended: set[int] = set()
        self._decoder = hpack.Decoder()

    def settings(self) -> bytes:
        return frames.encode_settings(
            {
                Setting.INITIAL_WINDOW_SIZE: self.stream_window,
                Setting.MAX_FRAME_SIZE: self.frame_max,
            }
        )

    def take(self, raw: bytes) -> None:
        for kind, flags, stream_id, payload in split(raw):
            assert len(payload) <= self.frame_max
            if kind in {frames.DATA, frames.HEADERS}:
                assert stream_id not in self.ended, "something follows the end"
            if kind == frames.DATA:
                self._take_data(stream_id, payload)
            if kind == frames.HEADERS:
                self.trailers[stream_id] = cast("Headers", self._decoder.decode(payload))
            if kind in {frames.DATA, frames.HEADERS} and flags & frames.END_STREAM:
                self.ended.add(stream_id)

    def grant(self, size_bytes: int) -> bytes:
        """Let the other end send more, on each stream and as much altogether."""
        streams = [each for each in self.data if each not in self.ended]
        raw = b""
        for stream_id in [0, *streams]:
            raw += frames.encode_window_update(stream_id, size_bytes)
        self.connection_window += size_bytes
        for stream_id in streams:
            self.windows[stream_id] += size_bytes
        return raw

    def _take_data(self, stream_id: int, payload: bytes) -> None:
        self.connection_window -= len(payload)
        self.windows[stream_id] -= len(payload)
        if payload:
            assert self.connection_window >= 0, "beyond the connection's window"
            assert self.windows[stream_id] >= 0, "beyond the stream's window"
        self.data[stream_id] += payload


def goaway_code(raw: bytes) -> ErrorCode:
    """Return the code of the only GOAWAY in what was sent."""
    (payload,) = [payload for kind, _, _, payload in split(raw) if kind == frames.GOAWAY]
    return ErrorCode(frames.decode_goaway(payload)[1])


def resets(raw: bytes) -> dict[int, ErrorCode]:
    """Return which streams were reset, and why."""
    return {
        stream_id: ErrorCode(int.from_bytes(payload, "big"))
        for kind, _, stream_id, payload in split(raw)
        if kind == frames.RST_STREAM
    }


def grants(raw: bytes) -> defaultdict[int, int]:
    """Return how much each stream, and 0 for all together, was granted."""
    granted: defaultdict[int, int] = defaultdict(int)
    for kind, _, stream_id, payload in split(raw):
        if kind == frames.WINDOW_UPDATE:
            granted[stream_id] += int.from_bytes(payload, "big")
    return granted
