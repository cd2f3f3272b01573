"""Between Python values and a record's bytes.

A serde is any object with `name`, `encode` and `decode`; those here cover what services exchange.
`None` never reaches a serde: a record without key, and a tombstone, stay `None`. What a serde
raises is wrapped: `SerializationError` names topic, key and serde, `DeserializationError` topic,
partition and offset.

    positions = client.topic("positions", key=serdes.string, value=serdes.json_of(Position))
"""

import struct
import uuid as _uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar, cast, runtime_checkable

import msgspec
from google.protobuf.message import Message

T = TypeVar("T")
M = TypeVar("M", bound=Message)

_INT64: Final = struct.Struct(">q")
_FLOAT64: Final = struct.Struct(">d")


@runtime_checkable
class Serde(Protocol[T]):
    """Turns values of one type into bytes and back."""

    @property
    def name(self) -> str:
        """What error messages call it."""

    def encode(self, value: T, /) -> bytes:
        """Return the bytes of a value; raise anything for one that does not fit."""

    def decode(self, data: bytes, /) -> T:
        """Return the value of some bytes; raise anything for damaged ones."""


@dataclass(frozen=True, slots=True)
class FunctionSerde(Generic[T]):
    """A serde made of two functions.

    Attributes:
        name: What error messages call it.
        encode: From value to bytes.
        decode: From bytes to value.
    """

    name: str
    encode: Callable[[T], bytes]
    decode: Callable[[bytes], T]


def _checked_bytes(value: bytes) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"expected bytes, not {type(value).__name__}")
    return bytes(value)


def _encode_string(value: str) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"expected str, not {type(value).__name__}")
    return value.encode()


def _encode_uuid(value: _uuid.UUID) -> bytes:
    if not isinstance(value, _uuid.UUID):
        raise TypeError(f"expected UUID, not {type(value).__name__}")
    return value.bytes


def _decode_int64(data: bytes) -> int:
    return cast("int", _INT64.unpack(data)[0])


def _decode_float64(data: bytes) -> float:
    return cast("float", _FLOAT64.unpack(data)[0])


raw: Final[Serde[bytes]] = FunctionSerde("bytes", _checked_bytes, bytes)
"""Bytes as they are; the default."""

string: Final[Serde[str]] = FunctionSerde("string", _encode_string, lambda data: str(data, "utf-8"))
"""UTF-8."""

int64: Final[Serde[int]] = FunctionSerde("int64", _INT64.pack, _decode_int64)
"""Eight bytes, big-endian, as Kafka's LongSerializer writes them."""

float64: Final[Serde[float]] = FunctionSerde("float64", _FLOAT64.pack, _decode_float64)
"""Eight bytes, big-endian IEEE 754, as Kafka's DoubleSerializer writes them."""

uuid: Final[Serde[_uuid.UUID]] = FunctionSerde(
    "uuid", _encode_uuid, lambda data: _uuid.UUID(bytes=bytes(data))
)
"""The UUID's 16 bytes."""

json: Final[Serde[Any]] = FunctionSerde(
    "json", msgspec.json.Encoder().encode, msgspec.json.Decoder().decode
)
"""JSON of whatever msgspec can write: dict, list, dataclass, datetime, Enum, ..."""

msgpack: Final[Serde[Any]] = FunctionSerde(
    "msgpack", msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
)
"""MessagePack of whatever msgspec can write."""


def json_of(kind: type[T]) -> Serde[T]:
    """Return a JSON serde that validates while decoding.

    Args:
        kind: A msgspec.Struct, dataclass, TypedDict, or any type msgspec knows.
    """
    encoder = msgspec.json.Encoder()
    return FunctionSerde(
        f"json_of({_type_name(kind)})", encoder.encode, msgspec.json.Decoder(kind).decode
    )


def msgpack_of(kind: type[T]) -> Serde[T]:
    """Return a MessagePack serde that validates while decoding; types as in `json_of`."""
    encoder = msgspec.msgpack.Encoder()
    return FunctionSerde(
        f"msgpack_of({_type_name(kind)})", encoder.encode, msgspec.msgpack.Decoder(kind).decode
    )


def protobuf(message: type[M]) -> Serde[M]:
    """Return a serde for one protobuf message class."""
    name = message.DESCRIPTOR.full_name

    def encode(value: M) -> bytes:
        if not isinstance(value, message):
            raise TypeError(f"expected {name}, not {type(value).__name__}")
        return value.SerializeToString()

    return FunctionSerde(f"protobuf({name})", encode, message.FromString)


def optional(serde: Serde[T]) -> Serde[T | None]:
    """Return the same serde, typed for compacted topics, whose records may be tombstones."""
    return cast("Serde[T | None]", serde)


def _type_name(kind: object) -> str:
    return getattr(kind, "__name__", None) or str(kind)
