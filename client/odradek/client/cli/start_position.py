"""Where to begin reading, as a person writes it: `--from earliest`, `120`, `-1h`, a date. Pure."""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from odradek.protocol.errors import OdradekError


class StartPositionError(OdradekError):
    """Not a place to begin: write earliest, latest, an offset, a time, or an age such as -1h."""


class LogEnd(Enum):
    """One end of the log."""

    EARLIEST = "earliest"
    LATEST = "latest"


@dataclass(frozen=True, slots=True)
class AtOffset:
    """At a record's number."""

    offset: int


@dataclass(frozen=True, slots=True)
class AtTimestamp:
    """At the first record of that time or later."""

    timestamp_ms: int


StartPosition = LogEnd | AtOffset | AtTimestamp

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_AGE = re.compile(r"-(\d+(?:\.\d+)?)([smhd])")
_OFFSET_MAX = 2**63 - 1


def parse_start(text: str, *, now_s: float) -> StartPosition:
    """Read a place to begin.

    Args:
        text: `earliest`, `latest`, an offset, an ISO 8601 date or time (local when it names no
            zone), or an age: `-90s`, `-30m`, `-1h`, `-7d`.
        now_s: The present, in seconds since the epoch.

    Raises:
        StartPositionError: It is none of these.
    """
    if text in {end.value for end in LogEnd}:
        return LogEnd(text)
    if text.isascii() and text.isdigit() and int(text) <= _OFFSET_MAX:
        return AtOffset(int(text))
    if age := _AGE.fullmatch(text):
        return AtTimestamp(int(now_s * 1000 - float(age[1]) * _UNITS_MS[age[2]]))
    try:
        return AtTimestamp(int(datetime.fromisoformat(text).timestamp() * 1000))
    except ValueError:
        raise StartPositionError(
            f"cannot begin at {text!r}: use earliest, latest, an offset such as 120, a time such"
            " as 2026-01-31T12:00, or an age such as -30m, -1h, -7d",
            field="from",
            value=text,
        ) from None
