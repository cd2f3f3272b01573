"""Values to bytes and back."""

import uuid
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from odradek.client import serdes
from odradek.v1 import error_pb2


class Struct(msgspec.Struct):
    x: float
    tags: list[str] = []


@dataclass
class Data:
    n: int


@pytest.mark.parametrize(
    ("serde", "value", "data"),
    [
        (serdes.raw, b"\x00\xff", b"\x00\xff"),
        (serdes.string, "Prag ü", b"Prag \xc3\xbc"),
        (serdes.int64, -2, b"\xff\xff\xff\xff\xff\xff\xff\xfe"),
        (serdes.float64, 1.0, b"\x3f\xf0" + bytes(6)),
        (serdes.uuid, uuid.UUID(int=1), bytes(15) + b"\x01"),
        (serdes.json, {"a": [1, None]}, b'{"a":[1,null]}'),
        (serdes.msgpack, [1, "a"], b"\x92\x01\xa1a"),
        (serdes.json_of(Struct), Struct(1.5, ["a"]), b'{"x":1.5,"tags":["a"]}'),
        (serdes.json_of(Data), Data(3), b'{"n":3}'),
        (serdes.msgpack_of(Data), Data(3), b"\x81\xa1n\x03"),
        (serdes.protobuf(error_pb2.Error), error_pb2.Error(field="f"), b"\x1a\x01f"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_round_trip_and_exact_bytes(serde: serdes.Serde[Any], value: Any, data: bytes) -> None:
    assert serde.encode(value) == data
    assert serde.decode(data) == value
    assert isinstance(serde, serdes.Serde)
    assert serde.name


@pytest.mark.parametrize(
    ("serde", "value"),
    [
        (serdes.raw, "text"),
        (serdes.string, b"bytes"),
        (serdes.int64, 1 << 63),
        (serdes.int64, "1"),
        (serdes.float64, "1"),
        (serdes.uuid, "not a UUID object"),
        (serdes.json, object()),
        (serdes.protobuf(error_pb2.Error), b"bytes"),
    ],
)
def test_what_does_not_fit_is_refused(serde: serdes.Serde[Any], value: Any) -> None:
    with pytest.raises(Exception):  # noqa: B017 the producer wraps whatever it is
        serde.encode(value)


@pytest.mark.parametrize(
    ("serde", "data"),
    [
        (serdes.string, b"\xff"),
        (serdes.int64, b"\x00"),
        (serdes.json, b"{"),
        (serdes.json_of(Struct), b'{"x":"no number"}'),
        (serdes.json_of(Data), b"{}"),
        (serdes.protobuf(error_pb2.Error), b"\xff\xff"),
        (serdes.uuid, b"short"),
    ],
)
def test_damaged_bytes_are_refused(serde: serdes.Serde[Any], data: bytes) -> None:
    with pytest.raises(Exception):  # noqa: B017 the consumer wraps whatever it is
        serde.decode(data)


def test_an_optional_serde_is_the_same_serde() -> None:
    assert serdes.optional(serdes.string) is serdes.string


def test_names_tell_the_type() -> None:
    assert serdes.json_of(Struct).name == "json_of(Struct)"
    assert serdes.protobuf(error_pb2.Error).name == "protobuf(odradek.v1.Error)"
