"""What a legal topic, group, member or client name is, and which known names lie near a wrong one.

Near names are a courtesy that takes up to some milliseconds each. So one search looks at a bounded
number of names of bounded length, and a request may cause only a few searches, whatever it names.

Source: Apache Kafka's rule for topics (249 characters: with a suffix it still fits a file name).
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from heapq import nlargest
from itertools import islice, pairwise, repeat

from odradek.protocol.errors import InvalidGroupIdError, InvalidRequestError, InvalidTopicError
from odradek.protocol.types import GroupId, TopicName

TOPIC_NAME_LENGTH_MAX = 249
GROUP_ID_LENGTH_MAX = 255
IDENTIFIER_LENGTH_MAX = 255

CONSUMER_OFFSETS = TopicName("__consumer_offsets")
TRANSACTION_STATE = TopicName("__transaction_state")
INTERNAL_TOPICS = frozenset({CONSUMER_OFFSETS, TRANSACTION_STATE})

_TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]+")
_RESERVED_TOPIC_NAMES = frozenset({".", ".."})
_TOPIC_NAME_LIMIT = f"{_TOPIC_NAME.pattern[:-1]}{{1,{TOPIC_NAME_LENGTH_MAX}}}, not '.' or '..'"
_SEARCHES_MAX = 4
_SUGGESTIONS_MAX = 3
_LIKENESS_MIN = 0.6
_LOOKED_AT_MAX = 300
_COMPARED_MAX = 6
_COMPARED_LENGTH_MAX = 100

_UNBOUNDED: Iterator[bool] = repeat(True)
_searches: ContextVar[Iterator[bool]] = ContextVar("near_name_searches")


def check_topic_name(name: str, *, field: str = "topic") -> TopicName:
    """Return a legal topic name, internal ones included.

    Raises:
        InvalidTopicError: Empty, too long, `.` or `..`, or with a character outside [a-zA-Z0-9._-].
    """
    if len(name) > TOPIC_NAME_LENGTH_MAX:
        raise InvalidTopicError(
            f"topic name of {len(name)} characters; at most {TOPIC_NAME_LENGTH_MAX} are allowed",
            field=field,
            value=name[:64] + "...",
            limit=TOPIC_NAME_LENGTH_MAX,
        )
    if name in _RESERVED_TOPIC_NAMES:
        raise InvalidTopicError(
            f"topic name {name!r} is reserved: '.' and '..' stand for directories",
            field=field,
            value=name,
            limit=_TOPIC_NAME_LIMIT,
        )
    if not _TOPIC_NAME.fullmatch(name):
        raise InvalidTopicError(
            f"topic name {name!r} is illegal: use letters, digits, '.', '_' and '-'",
            field=field,
            value=name,
            limit=_TOPIC_NAME_LIMIT,
        )
    return TopicName(name)


def check_group_id(group: str, *, field: str = "group") -> GroupId:
    """Return a legal group name.

    Raises:
        InvalidGroupIdError: Empty, too long, or with a control character.
    """
    if not group or len(group) > GROUP_ID_LENGTH_MAX or not group.isprintable():
        raise InvalidGroupIdError(
            f"group name {group[:64]!r} is illegal: use 1 to {GROUP_ID_LENGTH_MAX}"
            " printable characters",
            field=field,
            value=group[:64],
            limit=GROUP_ID_LENGTH_MAX,
        )
    return GroupId(group)


def check_identifier(value: str, *, field: str) -> str:
    """Return a member, instance, client or rack name; may be empty.

    Raises:
        InvalidRequestError: Too long, or with a control character.
    """
    if len(value) > IDENTIFIER_LENGTH_MAX or not (value.isprintable() or not value):
        raise InvalidRequestError(
            f"{field} {value[:64]!r} is illegal: use at most {IDENTIFIER_LENGTH_MAX}"
            " printable characters",
            field=field,
            value=value[:64],
            limit=IDENTIFIER_LENGTH_MAX,
        )
    return value


def begin_request() -> None:
    """Let this task, and those it makes from now on, look for near names a few times more.

    Without this, as in a client, there is no bound.
    """
    _searches.set(repeat(True, _SEARCHES_MAX))


def near_names(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the known names that a person who typed `name` may have meant, best first.

    Among many, only some of about that length are looked at, and only those compared thoroughly
    that share most pairs of neighbouring characters: that takes up to milliseconds each.
    """
    if len(name) > _COMPARED_LENGTH_MAX or not next(_searches.get(_UNBOUNDED), False):
        return ()
    pairs = _pairs(name)
    alike = (each for each in known if _similar_lengths(len(each), len(name)))
    best = nlargest(
        _COMPARED_MAX,
        islice(alike, _LOOKED_AT_MAX),
        key=lambda each: len(pairs & _pairs(each)) / (len(each) + 1),
    )
    return tuple(difflib.get_close_matches(name, best, n=_SUGGESTIONS_MAX, cutoff=_LIKENESS_MIN))


def _similar_lengths(one: int, other: int) -> bool:
    """Whether names of these lengths can be alike enough at all."""
    return 2 * min(one, other) >= _LIKENESS_MIN * (one + other)


def _pairs(name: str) -> set[tuple[str, str]]:
    return set(pairwise(f" {name} "))
