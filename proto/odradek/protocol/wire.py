"""Protobuf's encoding, as much as the hand-written messages of `hot` need.

Problem: the generated classes copy every payload twice and refuse memoryviews. Idea: a message is a
run of tagged fields; a generator walks it and says where each begins and ends, touching no payload.

Invariants: a walk never reads outside its range and always ends, after `FIELDS_MAX` fields at the
latest; whatever the bytes, only InvalidRequestError is raised; encodings are canonical, as the
generated classes write them.

Source: protobuf.dev, "Encoding"; its limits (tags of 32 bits, lengths of 31) are upb's.
"""

from collections.abc import Iterator

from odradek.protocol.errors import InvalidRequestError

VARINT = 0
LENGTH_DELIMITED = 2

FIELDS_MAX = 1 << 17
"""In one message and those inside it: one takes 2 bytes to send, and up to 2 us to read."""

_GROUP_START = 3
_GROUP_END = 4
_FIXED_BYTES = {1: 8, 5: 4}
_MASK_64 = (1 << 64) - 1
_VARINT_BYTES_MAX = 10
_TAG_BYTES_MAX = 5
_GROUP_DEPTH_MAX = 100
_ONE_BYTE = tuple(bytes((value,)) for value in range(0x80))


def tag(field_number: int, wire_type: int) -> int:
    """Return the number that precedes a field."""
    return field_number << 3 | wire_type


def varint(value: int) -> bytes:
    """Encode an integer; negative ones become ten bytes, as int32 and int64 have it."""
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    if 0 <= value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    value &= _MASK_64
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def integer_field(field_number: int, value: int) -> bytes:
    """Encode an integer field, with a number below 16; nothing for 0, as proto3 has it."""
    return _ONE_BYTE[field_number << 3 | VARINT] + varint(value) if value else b""


def bytes_field(field_number: int, value: bytes) -> bytes:
    """Encode a string, bytes or message field; nothing when it is empty."""
    return length_prefix(field_number, len(value)) + value if value else b""


def length_prefix(field_number: int, size_bytes: int) -> bytes:
    """Encode what precedes a string, bytes or message field with a number below 16."""
    return _ONE_BYTE[field_number << 3 | LENGTH_DELIMITED] + varint(size_bytes)


def field_budget() -> Iterator[int]:
    """Return how many steps the walks through a message, and those inside it, take together."""
    return iter(range(FIELDS_MAX))


def fields(
    data: bytes, start: int, end: int, budget: Iterator[int]
) -> Iterator[tuple[int, int, int]]:
    """Walk one message.

    Yields:
        (tag, start, end) of each length-delimited field, (tag, value, 0) of each varint, the value
        as an unsigned 64-bit number. Fields of other types are stepped over.

    Raises:
        InvalidRequestError: The bytes are not a message, or one of too many fields.
    """
    position = start
    for _ in budget:
        if position >= end:
            return
        key = data[position]
        position += 1
        if key >= 0x80:
            key, position = _read_varint(data, position - 1, end, _TAG_BYTES_MAX)
        if key & 5 or not 8 <= key < 1 << 32:  # neither VARINT nor LENGTH_DELIMITED, or illegal
            position = _skip(data, key, position, end, budget)
            continue
        if position >= end:
            raise _malformed("a field is cut short", position)
        value = data[position]
        position += 1
        if value >= 0x80:
            value, position = _read_varint(data, position - 1, end)
        if key & 7 == VARINT:
            yield key, value, 0
            continue
        if value > end - position:
            raise _malformed(f"a field claims {value} bytes", position)
        yield key, position, position + value
        position += value
    raise _too_many_fields()


def signed_32(value: int) -> int:
    """Read a varint as int32; as in protobuf, bits beyond are dropped."""
    value &= 0xFFFF_FFFF
    return value - (value >> 31 << 32)


def signed_64(value: int) -> int:
    """Read a varint as int64."""
    return value - (value >> 63 << 64)


def text(data: bytes, start: int, end: int) -> str:
    """Read a string.

    Raises:
        InvalidRequestError: Not UTF-8.
    """
    try:
        return data[start:end].decode()
    except UnicodeDecodeError as error:
        raise _malformed("a string is not UTF-8", start + error.start) from error


def _read_varint(
    data: bytes, position: int, end: int, bytes_max: int = _VARINT_BYTES_MAX
) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[position : min(end, position + bytes_max)]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value & _MASK_64, position + index + 1  # as in protobuf, bits beyond are dropped
    raise _malformed("an integer does not end", position)


def _skip(data: bytes, key: int, position: int, end: int, budget: Iterator[int]) -> int:
    """Step over a field of a type no hot message has, a group with all that is in it."""
    group_ends: list[int] = []
    while True:
        wire_type = key & 7
        if not 8 <= key < 1 << 32:
            raise _malformed("a field number is out of bounds", position)
        if wire_type in {VARINT, LENGTH_DELIMITED}:
            value, position = _read_varint(data, position, end)
            position += value if wire_type == LENGTH_DELIMITED else 0
        elif wire_type in _FIXED_BYTES:
            position += _FIXED_BYTES[wire_type]
        elif wire_type == _GROUP_START and len(group_ends) < _GROUP_DEPTH_MAX:
            group_ends.append(key - _GROUP_START + _GROUP_END)
        elif not group_ends or group_ends.pop() != key:
            raise _malformed("a field has an impossible type", position)
        if position > end:
            raise _malformed("a field is cut short", position)
        if not group_ends:
            return position
        if next(budget, None) is None:
            raise _too_many_fields()
        key, position = _read_varint(data, position, end, _TAG_BYTES_MAX)


def _too_many_fields() -> InvalidRequestError:
    return InvalidRequestError(
        "too many fields in one message", field="message", value=f"> {FIELDS_MAX}", limit=FIELDS_MAX
    )


def _malformed(reason: str, position: int) -> InvalidRequestError:
    return InvalidRequestError(
        f"the bytes are not the expected message: {reason} at byte {position}", value=position
    )
