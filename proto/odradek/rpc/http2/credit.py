"""What the peer may still send, by stream and by connection. Pure.

Idea: credit is granted anew, by halves of a window, for what was taken in, unless too much of it
waits to be read: then the peer runs out of credit.

Invariants: what the peer may send beyond what was read is bounded, by stream and by connection, in
bytes and in messages; what is granted are the bytes that came, whatever it takes to keep them.

Source: RFC 9113, sections 5.2 and 6.9.
"""

from typing import Final

from odradek.rpc.http2 import frames
from odradek.rpc.http2.frames import ErrorCode
from odradek.rpc.http2.streams import PREFIX_BYTES, ProtocolViolationError, Stream

STREAM_WINDOW_BYTES: Final = 4 << 20
CONNECTION_WINDOW_BYTES: Final = 16 << 20
UNREAD_BYTES_MAX: Final = 1 << 20
"""Of a stream: with more kept in whole messages, it is granted nothing."""
CONNECTION_UNREAD_BYTES_MAX: Final = 128 << 20
"""Of a connection: with more, it is granted nothing."""
KEPT_BYTES: Final = 56
"""What a message takes in memory until it is read, beside what it says; on the wire that is 5."""


class Credit:
    """One connection's.

    Args:
        out: What is to be written.
    """

    def __init__(self, out: list[bytes | memoryview]) -> None:
        self._out = out
        self._window_bytes = CONNECTION_WINDOW_BYTES
        self._ungranted_bytes = self._unread_bytes = 0

    def allows(self, stream: Stream, frame_bytes: int) -> bool:
        """Whether the peer may send a data frame of this size."""
        return frame_bytes <= stream.receive_window and frame_bytes <= self._window_bytes

    def take_frame(self, stream: Stream | None, frame_bytes: int) -> None:
        """A data frame comes; None: of a stream that is gone.

        Raises:
            ProtocolViolationError: The peer had no credit for it.
        """
        self._window_bytes -= frame_bytes
        if self._window_bytes < 0:
            raise ProtocolViolationError(ErrorCode.FLOW_CONTROL_ERROR, "beyond the window")
        if stream is not None:
            stream.receive_window -= frame_bytes
            if stream.receive_window < 0:
                raise ProtocolViolationError(
                    ErrorCode.FLOW_CONTROL_ERROR, "beyond a stream's window"
                )

    def take_bytes(self, stream: Stream | None, size_bytes: int) -> None:
        """So much of it is here."""
        self._ungranted_bytes += size_bytes
        if stream is not None:
            stream.ungranted_bytes += size_bytes

    def take_message(self, stream: Stream, message_bytes: int) -> None:
        """A message is complete, and waits to be read."""
        stream.unread_bytes += message_bytes + KEPT_BYTES
        self._unread_bytes += message_bytes + KEPT_BYTES

    def take_whole(self, stream: Stream, frame_bytes: int) -> None:
        """All of these in one: a frame that the peer may send comes, and is a message."""
        kept_bytes = frame_bytes - PREFIX_BYTES + KEPT_BYTES
        self._window_bytes -= frame_bytes
        self._ungranted_bytes += frame_bytes
        self._unread_bytes += kept_bytes
        stream.receive_window -= frame_bytes
        stream.ungranted_bytes += frame_bytes
        stream.unread_bytes += kept_bytes
        self.grant(stream)

    def consume(self, stream: Stream, message_bytes: int) -> None:
        """A message was read."""
        size_bytes = min(message_bytes + KEPT_BYTES, stream.unread_bytes)  # 0 of one that is gone
        stream.unread_bytes -= size_bytes
        self._unread_bytes -= size_bytes
        self.grant(stream if size_bytes else None)

    def forget(self, stream: Stream) -> None:
        """Nobody will read what came of a stream."""
        self._unread_bytes -= stream.unread_bytes
        stream.unread_bytes = 0
        self.grant(None)

    def grant(self, stream: Stream | None) -> None:
        """Grant anew what is due, of the connection and of a stream."""
        if (
            stream is not None
            and stream.ungranted_bytes * 2 >= STREAM_WINDOW_BYTES
            and stream.unread_bytes <= UNREAD_BYTES_MAX
            and not stream.is_ended_there
        ):
            self._out.append(frames.encode_window_update(stream.stream_id, stream.ungranted_bytes))
            stream.receive_window += stream.ungranted_bytes
            stream.ungranted_bytes = 0
        if (
            self._ungranted_bytes * 2 >= CONNECTION_WINDOW_BYTES
            and self._unread_bytes <= CONNECTION_UNREAD_BYTES_MAX
        ):
            self._out.append(frames.encode_window_update(0, self._ungranted_bytes))
            self._window_bytes += self._ungranted_bytes
            self._ungranted_bytes = 0
