"""What is typed comes out as typed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odradek.client.cli.record_format import (
    FormatError,
    as_json,
    compile_format,
    parse_headers,
    parse_line,
    parse_settings,
)
from odradek.client.record import Record


def record(**changes: Any) -> Record[bytes, bytes]:
    fields: dict[str, Any] = {
        "topic": "t",
        "partition": 2,
        "offset": 7,
        "timestamp_ms": 1_700_000_000_123,
        "key": b"van-1",
        "value": b"hello",
        "headers": [("unit", b"m"), ("unit", b"km")],
    }
    return Record(**{**fields, **changes})


@given(st.binary().filter(lambda key: b":" not in key), st.binary())
def test_a_line_is_split_at_its_first_separator(key: bytes, value: bytes) -> None:
    line = parse_line(key + b":" + value, separator=b":", place="line 1")
    assert (line.key, line.value) == (key, value)


@given(st.binary())
def test_without_a_separator_the_line_is_the_value(line: bytes) -> None:
    parsed = parse_line(line, separator=None, place="line 1")
    assert (parsed.key, parsed.value) == (None, line)


def test_a_line_without_the_separator_is_named_by_its_number() -> None:
    with pytest.raises(FormatError, match=r"line 12 has no ':' .* 'no key here'"):
        parse_line(b"no key here", separator=b":", place="line 12")


def test_headers() -> None:
    assert parse_headers(["a=1", "b=x=y", "c="]) == {"a": b"1", "b": b"x=y", "c": b""}
    for wrong in ("novalue", "=1"):
        with pytest.raises(FormatError, match="name=value"):
            parse_headers([wrong])


def test_settings() -> None:
    assert parse_settings(["flush=os", "a=b=c"]) == {"flush": "os", "a": "b=c"}
    with pytest.raises(FormatError, match="setting 'flush'"):
        parse_settings(["flush"])
    with pytest.raises(FormatError, match="setting 'flush', '=os': write it as name=value"):
        parse_settings(["flush", "a=b", "=os"])


@given(st.binary())
def test_a_value_is_written_byte_for_byte(value: bytes) -> None:
    assert compile_format("{value}")(record(value=value)) == value + b"\n"


def test_every_field_has_a_place_in_a_format() -> None:
    render = compile_format(
        r"{topic}\t{partition} {offset} {timestamp} {timestamp_ms} {key}={value} [{headers}]"
    )
    assert render(record()) == (
        b"t\t2 7 2023-11-14T22:13:20.123Z 1700000000123 van-1=hello [unit=m,unit=km]\n"
    )


def test_what_a_format_does_not_know_is_named_with_what_it_does() -> None:
    with pytest.raises(FormatError, match=r"unknown field \{valeu\}.*value"):
        compile_format("{key} {valeu}")


def test_json_lines() -> None:
    line = compile_format("json")(record(key=None, value=b"\xff", headers=[("h", None)]))
    assert line.endswith(b"\n")
    assert json.loads(line) == {
        "topic": "t",
        "partition": 2,
        "offset": 7,
        "timestamp_ms": 1_700_000_000_123,
        "key": None,
        "value_base64": "/w==",
        "headers": [{"name": "h", "value": None}],
    }
    assert as_json(record())["value"] == "hello"
