"""One HTTP/2 connection that carries gRPC messages, for either end. Pure.

Problem: a broker's messages are many and small, or few and large, and each has its price at every
thread, copy and wake-up on its way. Idea: HTTP/2 needs little for long-lived streams. A frame that
holds a whole message becomes that message in one step; one that does not fit the windows waits.

How to drive it: `receive` what came, and perform the events it returns, in order; call the `sender`
with what is to be sent; then write `out` and clear it. While the transport takes nothing, set
`sender.is_paused`, then `resume`. `consume` what was read, or the peer runs out of credit.

Invariants: what the peer may still send is bounded, by stream and by connection; of data only what
belongs to a message is kept, and of other frames at most one, in parts.

Source: RFC 9113; gRPC over HTTP/2.
"""

from typing import Final, cast

import hpack

from odradek.rpc.http2 import frames
from odradek.rpc.http2.credit import CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES, Credit
from odradek.rpc.http2.events import (
    Event,
    HeadersReceived,
    MessageReceived,
    MessageRefused,
    StreamEnded,
    StreamReset,
)
from odradek.rpc.http2.frames import ErrorCode, Setting
from odradek.rpc.http2.reader import HEADERS_BYTES_MAX, FrameReader, Piece
from odradek.rpc.http2.sender import Sender
from odradek.rpc.http2.streams import (
    FRAME_AND_PREFIX,
    PREFIX_BYTES,
    Headers,
    MessageTooLargeError,
    ProtocolViolationError,
    Stream,
)

PARTIAL_BYTES_MAX: Final = 256 << 20
"""Of all messages of a connection that are not complete: a stream that brings more is refused."""
_ECHOES_MAX: Final = 1_000
_PING_BYTES: Final = 8


class Connection:
    """One end's view.

    Args:
        is_client: Which end.
        streams_max: A server refuses more at a time.
    """

    def __init__(self, *, is_client: bool, streams_max: int = 1_000) -> None:
        self.sender = Sender(self._on_ended_here)
        self.out = self.sender.out
        self._credit = Credit(self.out)
        self.consume = self._credit.consume
        self.is_going_away = False
        """No stream may be opened any more."""
        self.streams: dict[int, Stream] = {}
        self._is_client = is_client
        self._streams_max = streams_max
        self._last_id = -1 if is_client else 0
        self._decoder = hpack.Decoder(max_header_list_size=HEADERS_BYTES_MAX)
        self._reader = FrameReader(b"" if is_client else frames.PREFACE)
        self.calls_max = frames.WINDOW_BYTES_MAX
        """So many at a time the peer takes."""
        self.is_greeted = False
        """The peer has begun to speak HTTP/2."""
        self._partial_bytes = 0
        self._echoes = 0
        self._begin()

    def _begin(self) -> None:
        settings = {
            Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
            Setting.MAX_FRAME_SIZE: frames.FRAME_BYTES_MAX,
            Setting.MAX_HEADER_LIST_SIZE: HEADERS_BYTES_MAX,
        }
        if self._is_client:
            self.out.append(frames.PREFACE)
            settings[Setting.ENABLE_PUSH] = 0
        else:
            settings[Setting.MAX_CONCURRENT_STREAMS] = self._streams_max
        self.out.append(frames.encode_settings(settings))
        more_bytes = CONNECTION_WINDOW_BYTES - frames.WINDOW_BYTES_DEFAULT
        self.out.append(frames.encode_window_update(0, more_bytes))

    # ------------------------------------------------------------------ calls

    def open(self, headers: Headers) -> Stream:
        """Begin a call; a client's."""
        assert not self.is_going_away, "dial anew"
        self._last_id += 2
        stream = self._add(self._last_id)
        self.sender.headers(stream, headers)
        if self._last_id > frames.WINDOW_BYTES_MAX - 2:
            self.is_going_away = True  # ids are never used again
        return stream

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """End a stream at once, both ways; nothing is heard of it any more."""
        if self.streams.get(stream.stream_id) is stream:
            self._forget(stream)
            self.out.append(frames.encode_reset(stream.stream_id, code))

    def ping(self) -> None:
        """Make the peer say something."""
        self.out.append(frames.encode(frames.PING, 0, 0, bytes(8)))

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """Tell the peer to open no more streams here."""
        self.is_going_away = True
        last_id = 0 if self._is_client else self._last_id
        self.out.append(frames.encode_goaway(last_id, code, reason))

    def resume(self) -> None:
        """The transport takes data again."""
        self._echoes = 0
        self.sender.is_paused = False
        self.sender.pump()

    def _add(self, stream_id: int) -> Stream:
        stream = Stream(stream_id, STREAM_WINDOW_BYTES)
        self.streams[stream_id] = stream
        return stream

    def _forget(self, stream: Stream) -> None:
        self.streams.pop(stream.stream_id, None)
        self.sender.forget(stream)
        self._partial_bytes -= stream.partial_bytes
        stream.partial_bytes = 0
        self._credit.forget(stream)

    def _on_ended_here(self, stream: Stream) -> None:
        if stream.is_ended_there:
            self._forget(stream)
        elif not self._is_client:
            self.reset(stream, ErrorCode.NO_ERROR)  # answered: the caller need not end its part

    # ------------------------------------------------------------------ receiving

    def receive(self, data: bytes) -> list[Event]:
        """Take what came.

        Raises:
            ProtocolViolationError: Perform its events, write `out`, then close.
        """
        events: list[Event] = []
        taken_bytes = self._take_messages(data, events)
        if taken_bytes == len(data):
            return events
        try:
            for piece in self._reader.read(data[taken_bytes:]):
                if piece.kind == frames.DATA:
                    self._on_data(piece, events)
                else:
                    self._on_frame(piece, events)
        except ProtocolViolationError as violation:
            self.go_away(violation.code, violation.reason)
            violation.events = events
            raise
        if self.sender.is_due:
            self.sender.pump()
        return events

    # Data

    def _take_messages(self, data: bytes, events: list[Event]) -> int:
        """Take the whole messages at the beginning, each a frame of its own: nearly all are.

        Returns:
            How many bytes they have. What follows them is something else, or not complete.
        """
        position, size = 0, len(data)
        if not self._reader.is_between_frames:
            return 0
        while size - position >= FRAME_AND_PREFIX.size:
            upper, lower, kind, flags, stream_id, compressed, message_bytes = (
                FRAME_AND_PREFIX.unpack_from(data, position)
            )
            frame_bytes = message_bytes + PREFIX_BYTES
            start = position + FRAME_AND_PREFIX.size
            stream = self.streams.get(stream_id)
            if (
                kind != frames.DATA
                or flags
                or compressed
                or upper << 8 | lower != frame_bytes
                or start + message_bytes > size
                or stream is None
                or not stream.takes_messages
                or not self._credit.allows(stream, frame_bytes)
            ):
                break
            position = start + message_bytes
            self._credit.take_whole(stream, frame_bytes)
            events.append(MessageReceived(stream, data[start:position]))
        return position

    def _on_data(self, piece: Piece, events: list[Event]) -> None:
        """Take a data frame, or a part of one."""
        stream = self.streams.get(piece.stream_id)
        size, frame_bytes = len(piece.payload), piece.frame_bytes
        if frame_bytes >= 0:
            self._credit.take_frame(stream, frame_bytes)
            if stream is None:
                self._check_known(piece.stream_id)
            elif stream.is_ended_there:
                raise ProtocolViolationError(ErrorCode.STREAM_CLOSED, "data after the end")
        padding_bytes = frame_bytes - size if piece.flags & frames.PADDED else 0
        self._credit.take_bytes(stream, size + padding_bytes)
        if stream is not None:
            if not stream.is_refused:
                self._assemble(stream, piece.payload, events)
            if piece.is_last and piece.flags & frames.END_STREAM:
                if not stream.is_between_messages and not stream.is_refused:
                    events.append(MessageRefused(stream, "it ended within a message"))
                self._ended_there(stream)
                events.append(StreamEnded(stream))
        self._credit.grant(stream)

    def _assemble(self, stream: Stream, chunk: bytes, events: list[Event]) -> None:
        before_bytes = stream.partial_bytes
        try:
            try:
                messages = stream.take(chunk) if chunk else []
            finally:
                self._partial_bytes += stream.partial_bytes - before_bytes
            if self._partial_bytes > PARTIAL_BYTES_MAX:
                raise MessageTooLargeError("too much of messages that are not complete")  # noqa: TRY301
        except MessageTooLargeError as error:
            stream.is_refused = True
            events.append(MessageRefused(stream, str(error)))
            return
        for message in messages:
            self._credit.take_message(stream, len(message))
            events.append(MessageReceived(stream, message))

    def _ended_there(self, stream: Stream) -> None:
        stream.is_ended_there = True
        if stream.is_ended_here and not stream.pending:
            self._forget(stream)

    # Everything else

    def _on_frame(self, piece: Piece, events: list[Event]) -> None:
        match piece.kind:
            case frames.WINDOW_UPDATE:
                self._on_window_update(piece.stream_id, piece.payload)
            case frames.HEADERS:
                self._on_headers(piece, events)
            case frames.SETTINGS:
                self._on_settings(piece)
            case frames.PING:
                self._on_ping(piece)
            case frames.RST_STREAM:
                self._on_reset(piece.stream_id, _number(piece.payload), events)
            case frames.GOAWAY:
                self._on_goaway(piece.payload, events)
            case frames.PUSH_PROMISE:
                raise ProtocolViolationError(ErrorCode.PROTOCOL_ERROR, "nothing may be pushed")
            case _:
                pass  # priorities, and what later standards may bring

    def _on_headers(self, piece: Piece, events: list[Event]) -> None:
        try:
            headers = cast("Headers", self._decoder.decode(piece.payload))
        except hpack.HPACKError as error:
            raise ProtocolViolationError(ErrorCode.COMPRESSION_ERROR, repr(error)) from error
        except UnicodeDecodeError as error:
            raise ProtocolViolationError(ErrorCode.PROTOCOL_ERROR, "headers in no text") from error
        stream = self.streams.get(piece.stream_id)
        if stream is None:
            stream = self._on_opened(piece.stream_id)
            if stream is None:
                return
        elif stream.is_ended_there:
            raise ProtocolViolationError(ErrorCode.STREAM_CLOSED, "headers after the end")
        ends = bool(piece.flags & frames.END_STREAM)
        events.append(HeadersReceived(stream, headers, ends))
        if ends:
            self._ended_there(stream)

    def _on_opened(self, stream_id: int) -> Stream | None:
        """Accept a new stream, unless it is one of ours that has gone; None: nobody hears of it."""
        if self._is_client or stream_id <= self._last_id:
            self._check_known(stream_id)
            return None
        if not stream_id % 2:
            raise ProtocolViolationError(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} is even")
        if not self.is_going_away:
            self._last_id = stream_id
            if len(self.streams) < self._streams_max:
                return self._add(stream_id)
        self._echo(frames.encode_reset(stream_id, ErrorCode.REFUSED_STREAM))
        return None

    def _check_known(self, stream_id: int) -> None:
        """Frames may still come for a stream that is gone; not for one that never was."""
        if not 0 < stream_id <= self._last_id and not self.is_going_away:
            raise ProtocolViolationError(ErrorCode.PROTOCOL_ERROR, f"no stream {stream_id}")

    def _on_window_update(self, stream_id: int, payload: bytes) -> None:
        size = _number(payload) & frames.WINDOW_BYTES_MAX
        if not size:
            raise ProtocolViolationError(ErrorCode.PROTOCOL_ERROR, "a window grows by nothing")
        if not stream_id:
            self.sender.on_window_update(None, size)
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_known(stream_id)
        else:
            self.sender.on_window_update(stream, size)

    def _on_settings(self, piece: Piece) -> None:
        self.is_greeted = True
        if piece.flags & frames.ACK:
            return
        try:
            settings = frames.decode_settings(piece.payload)
        except ValueError as error:
            raise ProtocolViolationError(ErrorCode.FRAME_SIZE_ERROR, str(error)) from error
        known = dict(settings)
        self.calls_max = known.get(Setting.MAX_CONCURRENT_STREAMS, self.calls_max)
        # What it lets go is sent behind this: from the acknowledgement the peer knows that it may.
        self.sender.on_settings(known)
        self._echo(frames.encode(frames.SETTINGS, frames.ACK, 0))

    def _on_ping(self, piece: Piece) -> None:
        if len(piece.payload) != _PING_BYTES:
            raise ProtocolViolationError(ErrorCode.FRAME_SIZE_ERROR, "a ping has 8 bytes")
        if not piece.flags & frames.ACK:
            self._echo(frames.encode(frames.PING, frames.ACK, 0, piece.payload))

    def _echo(self, frame: bytes) -> None:
        """Answer what the peer can send without end, as long as it takes the answers."""
        if self.sender.is_paused:
            self._echoes += 1
            if self._echoes > _ECHOES_MAX:
                raise ProtocolViolationError(ErrorCode.ENHANCE_YOUR_CALM, "answers are not taken")
        self.out.append(frame)

    def _on_reset(self, stream_id: int, code: int, events: list[Event]) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_known(stream_id)
            return
        self._forget(stream)
        events.append(StreamReset(stream, code))

    def _on_goaway(self, payload: bytes, events: list[Event]) -> None:
        last_id, _ = frames.decode_goaway(payload)
        self.is_going_away = True
        for stream in list(self.streams.values()) if self._is_client else ():
            if stream.stream_id > last_id:
                self._forget(stream)
                events.append(StreamReset(stream, ErrorCode.REFUSED_STREAM))


def _number(payload: bytes) -> int:
    if len(payload) != frames.NUMBER.size:
        raise ProtocolViolationError(ErrorCode.FRAME_SIZE_ERROR, f"{len(payload)} bytes, not 4")
    number: int = frames.NUMBER.unpack(payload)[0]
    return number
