"""The bytes around the parts of a record, from tables.

Problem: a record is framed by variable-length numbers, slow to make one by one in Python. Idea:
but for the two deltas, what surrounds a value depends on its length only, so frames are made once
per length and looked up; small numbers come from a table.

Invariant: every table is bounded.

Source: Apache Kafka protocol guide, "Record"; protocol buffers' zigzag varints.
"""

from bisect import bisect_right
from collections.abc import Sequence
from operator import add
from typing import Final, NamedTuple, cast

NO_HEADERS: Final = b"\x00"
NO_ATTRIBUTES: Final = b"\x00"
_NULL: Final = b"\x01"  # -1: no key, no value
_DELTA_RANGE_ENDS: Final = (1 << 6, 1 << 13, 1 << 20, 1 << 27)
_TABLE_SIZE: Final = 4096
_FRAMES_MAX: Final = 4096
_FIXED_BYTES_MAX: Final = 1 + 10 + 5  # attributes, the longest timestamp delta and offset delta


def _encode(number: int) -> bytes:
    rest = (number << 1) ^ (number >> 63)
    encoded = bytearray()
    while rest > 0x7F:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)


small_varints: Final[list[bytes]] = [_encode(number) for number in range(_TABLE_SIZE)]
"""Encoded numbers from 0 on; long enough for the offset deltas of the largest batch seen."""


def varint(number: int) -> bytes:
    """Encode a signed number: small ones, of either sign, take few bytes."""
    return small_varints[number] if 0 <= number < len(small_varints) else _encode(number)


def _varints(numbers: list[int]) -> list[bytes]:
    if max(numbers) < len(small_varints):
        return list(map(small_varints.__getitem__, numbers))
    return list(map(varint, numbers))


def deltas_from(first: int) -> tuple[int, int]:
    """Return an end such that the offset deltas from `first` to it take equally many bytes.

    They are in `small_varints` from now on.

    Returns:
        The end (exclusive), and how many bytes each takes.
    """
    range_end = _DELTA_RANGE_ENDS[bisect_right(_DELTA_RANGE_ENDS, first)]
    end = min(range_end, max(2 * first, _TABLE_SIZE))
    if end > len(small_varints):
        small_varints.extend(map(_encode, range(len(small_varints), end)))
    return end, len(small_varints[first])


class Frame(NamedTuple):
    """What surrounds a value without key and headers: the length comes before the deltas."""

    length: bytes
    before_value: bytes
    record_bytes: int


class Frames(dict[int, Frame]):
    """By the value's length.

    Args:
        fixed_bytes: What attributes, timestamp delta and offset delta take together.
    """

    def __init__(self, fixed_bytes: int) -> None:
        super().__init__()
        self._fixed_bytes = fixed_bytes

    def __missing__(self, value_bytes: int) -> Frame:
        before_value = _NULL + varint(value_bytes)
        body_bytes = self._fixed_bytes + len(before_value) + value_bytes + len(NO_HEADERS)
        length = varint(body_bytes)
        if len(self) >= _FRAMES_MAX:
            self.clear()
        frame = self[value_bytes] = Frame(length, before_value, len(length) + body_bytes)
        return frame


frames_by_fixed_bytes: Final = [Frames(count) for count in range(_FIXED_BYTES_MAX + 1)]


def frame_any(
    before: bytes,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
) -> tuple[bytes, ...]:
    """Return the pieces of any record.

    Args:
        before: Attributes, timestamp delta and offset delta.

    Raises:
        TypeError: Something that is not bytes.
    """
    body = [before, *_nullable(key), *_nullable(value), varint(len(headers))]
    for name, content in headers:
        encoded = name.encode()
        body += (varint(len(encoded)), encoded, *_nullable(content))
    return varint(sum(map(len, body))), *body


KEYED_PIECES: Final = 8
"""Of a record by `frame_keyed`."""


def frame_keyed(
    start: bytes,
    deltas: Sequence[bytes],
    keys: Sequence[bytes | None],
    values: Sequence[bytes | None],
) -> tuple[list[bytes], list[int]]:
    """Frame records with keys and without headers, column by column.

    Args:
        start: Attributes and timestamp delta.
        deltas: Their offset deltas, encoded, all of one length; at least one.
        keys: As many.
        values: As many.

    Returns:
        Eight pieces for each record, and how many bytes each record takes.
    """
    fixed_bytes = len(start) + len(deltas[0]) + len(NO_HEADERS)
    before_keys, keys = _nullables(keys)
    before_values, values = _nullables(values)
    body_bytes = [
        fixed_bytes + len(before_key) + len(key) + len(before_value) + len(value)
        for before_key, key, before_value, value in zip(
            before_keys, keys, before_values, values, strict=True
        )
    ]
    lengths = _varints(body_bytes)
    pieces = [NO_HEADERS] * (KEYED_PIECES * len(deltas))
    pieces[0::KEYED_PIECES] = lengths
    pieces[1::KEYED_PIECES] = [start] * len(deltas)
    pieces[2::KEYED_PIECES] = deltas
    pieces[3::KEYED_PIECES] = before_keys
    pieces[4::KEYED_PIECES] = keys
    pieces[5::KEYED_PIECES] = before_values
    pieces[6::KEYED_PIECES] = values
    return pieces, list(map(add, map(len, lengths), body_bytes))


def _nullables(column: Sequence[bytes | None]) -> tuple[list[bytes], Sequence[bytes]]:
    """Return what comes before each, and each; nothing in place of None."""
    if None in column:
        present = [b"" if each is None else each for each in column]
        return [_NULL if each is None else varint(len(each)) for each in column], present
    every = cast("Sequence[bytes]", column)
    return _varints(list(map(len, every))), every


def _nullable(data: bytes | None) -> tuple[bytes, ...]:
    if data is None:
        return (_NULL,)
    if not isinstance(data, bytes):
        raise TypeError(f"records are made of bytes, not {type(data).__name__}")
    return (varint(len(data)), data)
