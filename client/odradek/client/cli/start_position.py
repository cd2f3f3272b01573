"""Where to begin reading, as a person writes it: `--from earliest`, `120`, `-1h`, a date. Pure."""

import re
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from odradek.protocol.errors import OdradekError

StartPosition: TypeAlias = Literal["earliest", "latest"] | int | datetime | timedelta
"""An end of the log, an offset, a moment (with its zone), or so long ago."""


class StartPositionError(OdradekError):
    """Not a place to begin: write earliest, latest, an offset, a time, or an age such as -1h."""


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_AGE = re.compile(r"-(\d{1,9}(?:\.\d{1,6})?)([smhd])", re.ASCII)
_AGE_MAX = timedelta(days=36_500)
_OFFSET_MAX = 2**63 - 1


def parse_start(text: str) -> StartPosition:
    """Read a place to begin.

    Args:
        text: `earliest`, `latest`, an offset, an ISO 8601 date or time (local when it names no
            zone), or an age: `-90s`, `-30m`, `-1h`, `-7d`.

    Raises:
        StartPositionError: It is none of these.
    """
    if text == "earliest":
        return "earliest"
    if text == "latest":
        return "latest"
    if text.isascii() and text.isdigit() and int(text) <= _OFFSET_MAX:
        return int(text)
    try:
        if age := _AGE.fullmatch(text):
            return min(timedelta(**{_UNITS[age[2]]: float(age[1])}), _AGE_MAX)
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise StartPositionError(
            f"cannot begin at {text!r}: use earliest, latest, an offset such as 120, a time such"
            " as 2026-01-31T12:00, or an age such as -30m, -1h, -7d",
            field="from",
            value=text,
        ) from None
