"""What a connection tells whoever drives it."""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from odradek.rpc.http2.streams import Headers, Stream


@dataclass(frozen=True, slots=True)
class HeadersReceived:
    """A call begins, is answered, or (`ends`) has ended."""

    stream: Stream
    headers: Headers
    ends: bool


class MessageReceived(NamedTuple):
    """A whole message; `consume` it once it is dealt with."""

    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
class MessageRefused:
    """Nothing more of this stream will be understood; `reset` it."""

    stream: Stream
    reason: str


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The peer has said all, without trailers."""

    stream: Stream


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The stream is gone."""

    stream: Stream
    code: int


Event: TypeAlias = HeadersReceived | MessageReceived | MessageRefused | StreamEnded | StreamReset
