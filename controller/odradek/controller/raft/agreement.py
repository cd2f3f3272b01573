"""The follower's half of log matching: what an AppendEntries does to the journal. Pure.

Problem: pysyncobj truncates entries that match, so a late or repeated message removes what was
already acknowledged; and it commits up to its own last entry. Idea: compare entry by entry,
truncate only at a real conflict, and vouch for no more than this message has shown.

Source: Ongaro and Ousterhout 2014, figure 2; the back-up hint is from section 5.3.
"""

from dataclasses import dataclass
from typing import Protocol

from odradek.controller.raft.messages import AppendEntries


class Log(Protocol):
    """What this module needs of the journal."""

    @property
    def first_index(self) -> int:
        """The base: covered by the state machine, hence committed."""
        ...

    @property
    def last_index(self) -> int:
        """The latest entry."""
        ...

    def term_at(self, index: int) -> int | None:
        """Return the term of an entry; None outside of the log."""
        ...

    def truncate_from(self, index: int) -> None:
        """Drop the entries from `index` on."""
        ...

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry."""
        ...


@dataclass(frozen=True, slots=True)
class Agreement:
    """Both logs are equal up to `index`, this one included."""

    index: int


@dataclass(frozen=True, slots=True)
class Disagreement:
    """The logs differ at the message's prev_log_index; `next_index` is worth trying."""

    next_index: int


def append_entries(log: Log, message: AppendEntries) -> Agreement | Disagreement:
    """Take the entries of the leader of the current term into the log; not yet durable."""
    prev_index = message.prev_log_index
    entries = message.entries
    if prev_index < log.first_index:
        # What the base covers is committed, and the leader of a term has all that is committed.
        entries = entries[log.first_index - prev_index :]
        prev_index = log.first_index
    elif prev_index > log.last_index:
        return Disagreement(log.last_index + 1)
    elif (term := log.term_at(prev_index)) != message.prev_log_term:
        while log.term_at(prev_index - 1) == term:
            prev_index -= 1
        return Disagreement(prev_index)
    for place, entry in enumerate(entries):
        present = log.term_at(entry.log_index)
        if present == entry.term:
            continue
        if present is not None:
            log.truncate_from(entry.log_index)
        for missing in entries[place:]:
            log.add(*missing)
        break
    return Agreement(prev_index + len(entries))
