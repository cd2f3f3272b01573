"""What one end sends: bytes in the order in which they leave, within the peer's windows. Pure.

Invariants: data of a stream leaves in order, its trailers last; `out` never holds data beyond the
peer's windows, and while `is_paused` no data is added to it.

Source: RFC 9113, sections 5.2 and 6.9.
"""

from collections.abc import Callable
from typing import Final

import hpack

from odradek.rpc.http2 import frames
from odradek.rpc.http2.frames import ErrorCode
from odradek.rpc.http2.streams import (
    FRAME_AND_PREFIX,
    PREFIX,
    PREFIX_BYTES,
    Headers,
    ProtocolViolationError,
    Stream,
)

_JOINED_BYTES: Final = 16 << 10  # a copy of less costs less than a piece more to write


class Sender:
    """One connection's.

    Args:
        on_ended: Told when a stream has sent its last byte.
    """

    def __init__(self, on_ended: Callable[[Stream], None]) -> None:
        self.out: list[bytes | memoryview] = []
        """What is to be written."""
        self.is_paused = False
        """The transport takes no more data for now."""
        self.is_due = False
        """Windows have grown: `pump`, once for all that came with it."""
        self._is_raised = False
        self.stream_window = frames.WINDOW_BYTES_DEFAULT
        """What every stream may send, beside its credit."""
        self._on_ended = on_ended
        self._encoder = hpack.Encoder()
        self._window = frames.WINDOW_BYTES_DEFAULT
        self._frame_max = frames.FRAME_BYTES_DEFAULT
        self._waiting: dict[Stream, None] = {}
        self._starved: dict[Stream, None] = {}
        """They wait for windows of their own."""

    def headers(self, stream: Stream, headers: Headers, *, ends: bool = False) -> None:
        """Send headers, after what was sent before."""
        block = self._encoder.encode(headers, huffman=False)  # it would cost 1 us a byte
        flags = frames.END_STREAM if ends else 0
        first, rest = block[: self._frame_max], block[self._frame_max :]
        kind = frames.HEADERS
        while rest:
            self.out.append(frames.encode(kind, flags, stream.stream_id, first))
            kind, flags = frames.CONTINUATION, 0
            first, rest = rest[: self._frame_max], rest[self._frame_max :]
        self.out.append(frames.encode(kind, flags | frames.END_HEADERS, stream.stream_id, first))
        if ends:
            self._ended(stream)

    def message(self, stream: Stream, data: bytes) -> None:
        """Send a message as soon as the windows allow; `Stream.pending` tells whether they did."""
        assert not stream.is_ended_here, "nothing follows the end"
        size = len(data) + PREFIX_BYTES
        if (
            self.is_paused
            or stream.pending
            or size > self._window
            or size > self.stream_window + stream.send_credit
            or size > self._frame_max
        ):
            stream.pending.append((PREFIX.pack(0, len(data)), memoryview(data)))
            if len(stream.pending) == 1:  # else it waits already
                self._send_some(stream)
            return
        self._window -= size
        stream.send_credit -= size
        head = FRAME_AND_PREFIX.pack(
            size >> 8, size & 0xFF, frames.DATA, 0, stream.stream_id, 0, len(data)
        )
        if size <= _JOINED_BYTES:
            self.out.append(head + data)
        else:
            self.out += (head, data)

    def end(self, stream: Stream, trailers: Headers | None = None) -> None:
        """Say that nothing more comes, after what is pending."""
        assert not stream.is_ended_here, "it ends once"
        stream.is_ended_here = True
        stream.trailers = trailers
        if not stream.pending:
            self._send_end(stream)

    def forget(self, stream: Stream) -> None:
        """Send nothing more of a stream."""
        stream.pending.clear()
        self._waiting.pop(stream, None)
        self._starved.pop(stream, None)

    def pump(self) -> None:
        """Send on, in turn, what waited."""
        waiting = self._waiting
        if self._is_raised:
            waiting |= self._starved
            self._starved.clear()
        self.is_due = self._is_raised = False
        while waiting and self._window > 0 and not self.is_paused:
            stream = next(iter(waiting))
            del waiting[stream]  # it comes last, if it comes again
            self._send_some(stream)

    def on_window_update(self, stream: Stream | None, size: int) -> None:
        """The peer takes more; None: on the connection as a whole.

        Raises:
            ProtocolViolationError: More than there can be.
        """
        if stream is None:
            self._window += size
            window = self._window
        else:
            stream.send_credit += size
            window = self.stream_window + stream.send_credit
        if window > frames.WINDOW_BYTES_MAX:
            raise ProtocolViolationError(ErrorCode.FLOW_CONTROL_ERROR, "a window overflows")
        if stream is None:
            self.is_due = True
        elif stream.pending:
            self._send_some(stream)

    def on_settings(self, settings: dict[int, int]) -> None:
        """The peer says how it wants to be sent to.

        Raises:
            ProtocolViolationError: What it says is not allowed.
        """
        known_bytes = self._encoder.header_table_size
        table_bytes = settings.get(frames.Setting.HEADER_TABLE_SIZE, known_bytes)
        if (table_bytes := min(table_bytes, frames.HEADER_TABLE_BYTES)) != known_bytes:
            self._encoder.header_table_size = table_bytes
        self._frame_max = settings.get(frames.Setting.MAX_FRAME_SIZE, self._frame_max)
        if not frames.FRAME_BYTES_DEFAULT <= self._frame_max <= frames.FRAME_BYTES_MAX:
            raise ProtocolViolationError(
                ErrorCode.PROTOCOL_ERROR, "frames of a size that cannot be"
            )
        window = settings.get(frames.Setting.INITIAL_WINDOW_SIZE, self.stream_window)
        if window > frames.WINDOW_BYTES_MAX:
            raise ProtocolViolationError(ErrorCode.FLOW_CONTROL_ERROR, "a window too large")
        if window > self.stream_window:
            self.is_due = self._is_raised = True
        self.stream_window = window

    def _send_some(self, stream: Stream) -> None:
        """Send as much of a stream as the windows allow, and put it where it waits for more."""
        pending = stream.pending
        while pending and not self.is_paused:
            window = self.stream_window + stream.send_credit
            if window <= 0:
                self._waiting.pop(stream, None)
                self._starved[stream] = None
                return
            size = min(self._window, window, self._frame_max)
            if size <= 0:
                break
            head, body = pending[0]
            size = min(size, len(head) + len(body))
            of_head = min(size, len(head))
            self.out.append(
                frames.HEADER.pack(size >> 8, size & 0xFF, frames.DATA, 0, stream.stream_id)
                + head[:of_head]
            )
            if size > of_head:
                self.out.append(body[: size - of_head])
            self._window -= size
            stream.send_credit -= size
            if size == len(head) + len(body):
                pending.popleft()
            else:
                pending[0] = head[of_head:], body[size - of_head :]
        self._starved.pop(stream, None)
        if pending:
            self._waiting[stream] = None
            return
        self._waiting.pop(stream, None)
        if stream.is_ended_here:
            self._send_end(stream)

    def _send_end(self, stream: Stream) -> None:
        if stream.trailers is not None:
            self.headers(stream, stream.trailers, ends=True)
            return
        self.out.append(frames.encode(frames.DATA, frames.END_STREAM, stream.stream_id))
        self._ended(stream)

    def _ended(self, stream: Stream) -> None:
        stream.is_ended_here = True
        self._on_ended(stream)
