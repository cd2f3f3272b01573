"""Records to lines and lines to records, as `produce` and `consume` write and read them. Pure.

Values are bytes: what was sent as a line comes out as the same line, whatever its encoding.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from odradek.client.record import Record
from odradek.protocol.errors import OdradekError

BytesRecord = Record[bytes, bytes]
"""A record as it came over the wire, without serdes."""


class FormatError(OdradekError):
    """A line, a header or a template that cannot be read."""


@dataclass(frozen=True, slots=True)
class LineRecord:
    """A line, split."""

    key: bytes | None
    value: bytes


def parse_line(line: bytes, *, separator: bytes | None, place: str) -> LineRecord:
    """Split a line, its line end already off, into key and value.

    Args:
        line: The line.
        separator: Ends the key; None: the line is the value. An empty key is a key.
        place: Which line it is, for the message: `line 7`.

    Raises:
        FormatError: The separator is missing.
    """
    if separator is None:
        return LineRecord(None, line)
    key, found, value = line.partition(separator)
    if not found:
        shown = line[:40].decode(errors="replace")
        raise FormatError(
            f"{place} has no {separator.decode()!r} between key and value: {shown!r}",
            field=place,
            value=shown,
        )
    return LineRecord(key, value)


def parse_headers(texts: Sequence[str]) -> dict[str, bytes]:
    """Read the `name=value` texts of headers.

    Raises:
        FormatError: No `=`, or no name before it.
    """
    return {name: value.encode() for name, value in _pairs(texts, what="header")}


def parse_settings(texts: Sequence[str]) -> dict[str, str]:
    """Read the `key=value` texts of settings.

    Raises:
        FormatError: No `=`, or no key before it.
    """
    return dict(_pairs(texts, what="setting"))


def _pairs(texts: Sequence[str], *, what: str) -> Iterator[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts]
    wrong = ", ".join(
        repr(text)
        for text, (name, found, _) in zip(texts, pairs, strict=True)
        if not (name and found)
    )
    if wrong:
        raise FormatError(f"{what} {wrong}: write it as name=value", field=what, value=wrong)
    return ((name, value) for name, _, value in pairs)


Render = Callable[[BytesRecord], bytes]
_ESCAPES = {"n": "\n", "t": "\t", "0": "\0", "\\": "\\"}
_FIELDS: Mapping[str, Render] = {
    "topic": lambda record: record.topic.encode(),
    "partition": lambda record: b"%d" % record.partition,
    "offset": lambda record: b"%d" % record.offset,
    "timestamp": lambda record: _iso(record.timestamp_ms).encode(),
    "timestamp_ms": lambda record: b"%d" % record.timestamp_ms,
    "key": lambda record: record.key or b"",
    "value": lambda record: record.value or b"",
    "headers": lambda record: b",".join(
        name.encode() + b"=" + (value or b"") for name, value in record.headers
    ),
}


def compile_format(template: str) -> Render:
    r"""Return the function that writes a record as a line, its end included.

    Args:
        template: `json` for one JSON object a line, else text with `{field}`s and the escapes
            \n, \t, \0 and \\.

    Raises:
        FormatError: An unknown field; names the known ones.
    """
    if template == "json":
        return lambda record: json.dumps(as_json(record), ensure_ascii=False).encode() + b"\n"
    text = re.sub(r"\\([nt0\\])", lambda match: _ESCAPES[match[1]], template)
    parts = [_part(part) for part in re.split(r"(\{[^{}]*\})", text + "\n") if part]
    return lambda record: b"".join([part(record) for part in parts])


def _part(text: str) -> Render:
    if not (text.startswith("{") and text.endswith("}")):
        literal = text.encode()
        return lambda _: literal
    field = _FIELDS.get(text[1:-1])
    if field is None:
        raise FormatError(
            f"unknown field {text} in the format; known are {', '.join(_FIELDS)}",
            field="format",
            value=text,
            limit=", ".join(_FIELDS),
        )
    return field


def as_json(record: BytesRecord) -> dict[str, object]:
    """Return a record as JSON values; bytes that are not UTF-8 go under `..._base64`."""
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        **_text("key", record.key),
        **_text("value", record.value),
        "headers": [{"name": name, **_text("value", value)} for name, value in record.headers],
    }


def _text(name: str, data: bytes | None) -> dict[str, str | None]:
    if data is None:
        return {name: None}
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}


def _iso(timestamp_ms: int) -> str:
    moment = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
