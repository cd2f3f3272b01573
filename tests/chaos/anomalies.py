"""What can be wrong with a log, by the names of Jepsen's Kafka workload. Pure.

Source: jepsen.tests.kafka (documentation), and its analyses of Redpanda 21.10 and Bufstream 0.1.
Not from there: vanished, phantom, unordered-sends, and the names that begin with `group-`.
"""

import enum
from dataclasses import dataclass


class AnomalyKind(enum.Enum):
    """The kinds of anomaly."""

    LOST_WRITE = "lost-write"
    """An acknowledged record that nobody ever read, below a record that somebody read."""
    UNSEEN = "unseen"
    """An acknowledged record that nobody read, at the end of the log or at an unknown offset."""
    VANISHED = "vanished"
    """A record that somebody read and the final readers did not find where it was."""
    DUPLICATE = "duplicate"
    """A record at two offsets."""
    INCONSISTENT_OFFSETS = "inconsistent-offsets"
    """An offset with two records."""
    ABORTED_READ = "aborted-read"
    """A record that was read although its send surely had no effect (Adya's G1a)."""
    PHANTOM = "phantom"
    """A record that nobody sent to this partition."""
    NONMONOTONIC_SEND = "nonmonotonic-send"
    """A process sent a record later than another, and it lies before that one."""
    INT_NONMONOTONIC_SEND = "int-nonmonotonic-send"
    """The same within one operation."""
    INT_SEND_SKIP = "int-send-skip"
    """Another record lies between two of one operation: an anomaly only for transactions."""
    UNORDERED_SENDS = "unordered-sends"
    """A record that was acknowledged before another was sent lies after that one."""
    NONMONOTONIC_POLL = "nonmonotonic-poll"
    """A consumer's poll began at or before the last record of its poll before."""
    INT_NONMONOTONIC_POLL = "int-nonmonotonic-poll"
    """The same within one poll."""
    POLL_SKIP = "poll-skip"
    """A consumer's poll began behind records that its poll before had not reached."""
    INT_POLL_SKIP = "int-poll-skip"
    """The same within one poll."""
    GROUP_DOUBLE_OWNER = "group-double-owner"
    """Two members of a group owned a partition at once, none of them expelled or dead."""
    GROUP_SKIP = "group-skip"
    """A group committed past a record that none of its members was given."""
    GROUP_STALE_RESUME = "group-stale-resume"
    """A new owner began before an offset that had been committed before it took over."""
    GROUP_UNSEEN = "group-unseen"
    """An acknowledged record that no member of a group was given."""


ALLOWED_WITHOUT_TRANSACTIONS = frozenset({AnomalyKind.INT_SEND_SKIP})


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One thing that must not be.

    Attributes:
        kind: What.
        partition: Where.
        at_ns: When somebody could have noticed, on the history's clock.
        detail: Processes, offsets and values, for people.
    """

    kind: AnomalyKind
    partition: int
    at_ns: int
    detail: str
