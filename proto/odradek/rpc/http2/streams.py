"""One stream's state: what may be sent, what has come of a message. Pure.

A gRPC message is a flag, a length and that many bytes; frames cut where they like.

Source: RFC 9113, sections 5 and 6.9; gRPC over HTTP/2, "Length-Prefixed-Message".
"""

from collections import deque
from struct import Struct
from typing import Any, Final

from odradek.rpc.http2.frames import ErrorCode

MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of a message, both ways. A fetch push has a few MiB, an image of 10,000 partitions one."""

PREFIX: Final = Struct(">BI")
PREFIX_BYTES: Final = PREFIX.size
FRAME_AND_PREFIX: Final = Struct(">HBBBIBI")
"""What comes before a message that is a frame of its own."""
_PARTS_MAX: Final = 256

Headers = list[tuple[str, str]]


class ProtocolViolationError(Exception):
    """The peer does what RFC 9113 forbids, or more of it than we bear: the connection ends."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.events: list[Any] = []
        """What came before it."""


class MessageTooLargeError(Exception):
    """A message is larger than `MESSAGE_BYTES_MAX`, or compressed: its stream ends."""


class Stream:
    """One call on a connection.

    Attributes:
        stream_id: Odd: clients open them.
        owner: Whoever hears of it; the connection does not look.
        send_credit: Bytes the peer takes now, beside what it lets every stream send.
        receive_window: Bytes we have let the peer send.
        ungranted_bytes: Came, and were not granted anew.
        unread_bytes: Taken in memory by whole messages that the owner did not consume.
        partial_bytes: Of a message that is not complete.
        pending: Messages that wait for the windows: what is left of the prefix, and of the bytes.
        trailers: Follow the last of `pending`.
        is_ended_here: Nothing more may be sent after `pending`.
        is_ended_there: The peer sends nothing more.
        is_refused: What still comes of it is dropped.
    """

    __slots__ = (
        "_body",
        "_head",
        "_message_bytes",
        "_parts",
        "is_ended_here",
        "is_ended_there",
        "is_refused",
        "owner",
        "partial_bytes",
        "pending",
        "receive_window",
        "send_credit",
        "stream_id",
        "trailers",
        "ungranted_bytes",
        "unread_bytes",
    )

    def __init__(self, stream_id: int, receive_window: int) -> None:
        self.stream_id = stream_id
        self.owner: Any = None
        self.send_credit = 0
        self.receive_window = receive_window
        self.ungranted_bytes = self.unread_bytes = 0
        self.pending: deque[tuple[bytes, memoryview]] = deque()
        self.trailers: Headers | None = None
        self.is_ended_here = self.is_ended_there = self.is_refused = False
        self._head = b""
        self._message_bytes = -1
        self._parts: list[bytes] = []
        self.partial_bytes = 0
        self._body = bytearray()

    @property
    def is_between_messages(self) -> bool:
        """Whether the next byte begins a message."""
        return self._message_bytes < 0 and not self._head

    @property
    def takes_messages(self) -> bool:
        """Whether a message that comes whole is the next one."""
        return (
            self._message_bytes < 0
            and not self._head
            and not self.is_refused
            and not self.is_ended_there
        )

    def take(self, chunk: bytes) -> list[bytes]:
        """Take bytes that came; return the messages they complete.

        Raises:
            MessageTooLargeError: Nothing more of this stream can be understood.
        """
        messages: list[bytes] = []
        position, size = 0, len(chunk)
        while True:
            if self._message_bytes < 0:
                start = position
                position = min(size, start + PREFIX_BYTES - len(self._head))
                self._head += chunk[start:position]
                if len(self._head) < PREFIX_BYTES:
                    return messages
                flag, message_bytes = PREFIX.unpack(self._head)
                check_prefix(flag, message_bytes)
                self._head, self._message_bytes = b"", message_bytes
            stop = position + self._message_bytes - self.partial_bytes
            if stop > size:
                self._keep(chunk[position:])
                return messages
            self._parts.append(chunk[position:stop])
            messages.append(self._whole())
            position = stop

    def _keep(self, chunk: bytes) -> None:
        if chunk:
            self._parts.append(chunk)
            self.partial_bytes += len(chunk)
        if len(self._parts) > _PARTS_MAX:  # of tiny frames each would cost many times its size
            self._body += b"".join(self._parts)
            self._parts.clear()

    def _whole(self) -> bytes:
        message = b"".join(self._parts)
        if self._body:
            message = bytes(self._body) + message
            self._body = bytearray()
        self._parts.clear()
        self.partial_bytes, self._message_bytes = 0, -1
        return message


def check_prefix(flag: int, size: int) -> None:
    """Refuse what we do not take.

    Raises:
        MessageTooLargeError: Too large, or compressed.
    """
    if flag:
        raise MessageTooLargeError("a compressed message; this end takes none")
    if size > MESSAGE_BYTES_MAX:
        raise MessageTooLargeError(f"a message of {size} bytes; the limit is {MESSAGE_BYTES_MAX}")
