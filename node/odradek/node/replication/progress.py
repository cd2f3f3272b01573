"""What a leader knows of one follower. Pure.

Problem: tell whether a follower keeps up when it can never have what is appended this instant.
Idea: note the log's end when a push leaves; an acknowledgement at or beyond that end proves that
the follower had caught up at that time, however much was appended since.

Invariants: durable_end <= sent_end within a session; an acknowledgement counts in its session only.
"""

from dataclasses import dataclass

from odradek.node.cluster.session import NO_INCARNATION
from odradek.node.replication.session import Announcement
from odradek.protocol.types import FIRST_OFFSET, Incarnation, Offset


@dataclass(frozen=True, slots=True)
class Cursor:
    """From where a follower is to be sent.

    Attributes:
        session: It belongs to this one.
        offset: Everything below was sent.
        is_settled: Everything sent was acknowledged.
    """

    session: int
    offset: Offset
    is_settled: bool


@dataclass(slots=True)
class Progress:
    """One follower during one leader epoch."""

    caught_up_at_s: float
    """When it last had everything there was."""
    durable_end: Offset = FIRST_OFFSET
    """As acknowledged last; it stays true while the follower is away."""
    incarnation: Incarnation = NO_INCARNATION
    session: int = 0
    matched: bool = False
    """Whether its log is known to be a prefix of the leader's, so that it can be pushed to."""
    sent_end: Offset = FIRST_OFFSET
    _noted_end: Offset | None = None
    _noted_at_s: float = 0.0

    @property
    def cursor(self) -> Cursor | None:
        """From where it is to be sent; None while it cannot be pushed to."""
        if not self.matched:
            return None
        return Cursor(self.session, self.sent_end, self.durable_end >= self.sent_end)

    def is_overtaken(self, incarnation: Incarnation, session: int) -> bool:
        """Whether a later announcement than this one has been heard."""
        return (incarnation, session) <= (self.incarnation, self.session)

    def begin(self, incarnation: Incarnation, session: int) -> None:
        """A session begins; nothing is known of its log yet."""
        self.incarnation, self.session = incarnation, session
        self.matched = False
        self._noted_end = None

    def match(self, announced: Announcement, log_end: Offset, now_s: float) -> None:
        """Its log, as announced, is a prefix of the leader's."""
        self.matched = True
        self.sent_end = announced.log_end
        self.durable_end = announced.durable_end
        self._judge(log_end, now_s)

    def send(self, end: Offset, log_end: Offset, now_s: float) -> None:
        """It is sent everything below an offset."""
        assert self.sent_end <= end <= log_end
        self.sent_end = end
        if self._noted_end is None:
            self._noted_end, self._noted_at_s = log_end, now_s

    def acknowledge(self, durable_end: Offset, log_end: Offset, now_s: float) -> None:
        """It has everything below an offset on disk."""
        assert durable_end <= self.sent_end
        self.durable_end = durable_end
        self._judge(log_end, now_s)

    def rest(self, log_end: Offset, now_s: float) -> None:
        """Time passes; whoever has everything keeps up without a word."""
        if self.matched and self.durable_end >= log_end:
            self.caught_up_at_s = now_s

    def _judge(self, log_end: Offset, now_s: float) -> None:
        if self.durable_end >= log_end:
            self.caught_up_at_s = now_s
            self._noted_end = None
        elif self._noted_end is not None and self.durable_end >= self._noted_end:
            self.caught_up_at_s = self._noted_at_s
            self._noted_end = None
