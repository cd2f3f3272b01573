"""Bytes that came, cut into frames. Pure.

Data is handed on as it comes, whole frame or not; headers as one block, whatever they were cut
into; any other frame once it is complete.

Invariant: of data nothing is kept here; of other frames at most one, and one block of headers.

Source: RFC 9113, sections 3.4, 4, 6.1, 6.2 and 6.10.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from odradek.rpc.http2 import frames
from odradek.rpc.http2.frames import ErrorCode
from odradek.rpc.http2.streams import ProtocolViolationError

HEADERS_BYTES_MAX: Final = 64 << 10
_CONTINUATIONS_MAX: Final = 32
_PRIORITY_BYTES: Final = 5


class Piece(NamedTuple):
    """A frame, or a part of a data frame.

    Attributes:
        kind: As in `frames`; headers are one piece with all their continuations.
        flags: Of the frame; of headers, of the first.
        stream_id: Whose; 0 for the connection.
        payload: Without padding.
        frame_bytes: That a data frame takes of the windows, with its first part; then -1.
        is_last: Whether the frame is complete with it.
    """

    kind: int
    flags: int
    stream_id: int
    payload: bytes
    frame_bytes: int = -1
    is_last: bool = True


class FrameReader:
    """One connection's.

    Args:
        preface: What must come before the frames.
    """

    def __init__(self, preface: bytes) -> None:
        self._preface = preface
        self._is_first = True
        self._partial = b""
        self._data: Piece | None = None
        self._data_left = 0
        self._block: Piece | None = None
        self._continuations = 0

    @property
    def is_between_frames(self) -> bool:
        """Whether the next byte begins a frame of any kind."""
        return not (self._is_first or self._partial or self._data or self._block)

    def read(self, data: bytes) -> Iterator[Piece]:
        """Yield what some bytes complete.

        Raises:
            ProtocolViolationError: These are no frames, or frames in an order that cannot be.
        """
        if self._partial:
            data, self._partial = self._partial + data, b""
        position, size = self._skip_preface(data), len(data)
        while position < size:
            if self._data is not None:
                stop = min(size, position + self._data_left)
                yield self._more_data(self._data, data[position:stop])
                position = stop
                continue
            start = position + frames.HEADER_BYTES
            if start > size:
                break
            upper, lower, kind, flags, stream_id = frames.HEADER.unpack_from(data, position)
            length = upper << 8 | lower
            stream_id &= frames.WINDOW_BYTES_MAX
            if self._is_first or self._block is not None:
                self._check_expected(kind, flags)
            if kind == frames.DATA and not flags & frames.PADDED:
                position = stop = min(size, start + length)
                is_last = stop - start == length
                piece = Piece(kind, flags, stream_id, data[start:stop], length, is_last)
                if not is_last:
                    self._data, self._data_left = piece, length - (stop - start)
                yield piece
                continue
            if length > HEADERS_BYTES_MAX:
                raise ProtocolViolationError(
                    ErrorCode.FRAME_SIZE_ERROR, f"a frame of kind {kind} with {length} bytes"
                )
            if start + length > size:
                break
            position = start + length
            yield from self._whole(kind, flags, stream_id, data[start:position])
        self._partial = data[position:]

    def _skip_preface(self, data: bytes) -> int:
        """Return where frames begin."""
        preface = self._preface
        if not data.startswith(preface[: len(data)]):
            raise ProtocolViolationError(ErrorCode.PROTOCOL_ERROR, "this is no HTTP/2")
        skipped = min(len(data), len(preface))
        self._preface = preface[skipped:]
        return skipped

    def _check_expected(self, kind: int, flags: int) -> None:
        if self._is_first and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ProtocolViolationError(ErrorCode.PROTOCOL_ERROR, "settings come first")
        if self._block is not None and kind != frames.CONTINUATION:
            raise ProtocolViolationError(ErrorCode.PROTOCOL_ERROR, "headers are not complete")
        self._is_first = False

    def _more_data(self, first: Piece, payload: bytes) -> Piece:
        self._data_left -= len(payload)
        is_last = not self._data_left
        if is_last:
            self._data = None
        return Piece(frames.DATA, first.flags, first.stream_id, payload, -1, is_last)

    def _whole(self, kind: int, flags: int, stream_id: int, payload: bytes) -> Iterator[Piece]:
        match kind:
            case frames.HEADERS:
                self._block = Piece(kind, flags, stream_id, _unpadded(flags, payload))
                self._continuations = 0
            case frames.CONTINUATION:
                self._continue(stream_id, payload)
            case frames.DATA:  # a padded one
                plain = _unpadded(flags & frames.PADDED, payload)
                yield Piece(kind, flags, stream_id, plain, len(payload))
            case _:
                yield Piece(kind, flags, stream_id, payload)
        if self._block is not None and flags & frames.END_HEADERS:
            block, self._block = self._block, None
            yield block

    def _continue(self, stream_id: int, payload: bytes) -> None:
        block = self._block
        if block is None or block.stream_id != stream_id:
            raise ProtocolViolationError(ErrorCode.PROTOCOL_ERROR, "nothing is to be continued")
        self._continuations += 1
        block = self._block = block._replace(payload=block.payload + payload)
        if self._continuations > _CONTINUATIONS_MAX or len(block.payload) > HEADERS_BYTES_MAX:
            raise ProtocolViolationError(ErrorCode.ENHANCE_YOUR_CALM, "headers too large")


def _unpadded(flags: int, payload: bytes) -> bytes:
    """Return what a frame carries without padding and priority."""
    start, stop = 0, len(payload)
    if flags & frames.PADDED:
        start, stop = 1, stop - (payload[0] if payload else 0)
    if flags & frames.HAS_PRIORITY:
        start += _PRIORITY_BYTES
    if start > stop:
        raise ProtocolViolationError(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    return payload[start:stop]
