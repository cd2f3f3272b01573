"""A broker that does everything right, in memory, with the history its clients would write.

For the checker's own tests: what it does is valid by construction, so that every anomaly the
checker reports is a mistake of the checker, and every planted one must be found.
"""

import random
from collections import deque

from tests.chaos.history import (
    Assign,
    Change,
    Commit,
    Event,
    Phase,
    Poll,
    Rebalance,
    Send,
    Stop,
    Subscribe,
)

PRODUCERS = ("producer-1", "producer-2")
READERS = ("reader-1", "reader-2")
GROUP = "group"
FINAL = "final"


class Model:
    """One partition, two producers that pipeline, two readers, one group of changing members."""

    def __init__(self, chance: random.Random) -> None:
        self.events: list[Event] = []
        self._chance = chance
        self._now_ns = 0
        self._next_value = 100
        self._log: list[int] = []
        self._waiting: dict[str, deque[int]] = {name: deque() for name in PRODUCERS}
        self._appended: list[tuple[str, int]] = []
        self._positions = dict.fromkeys((*READERS, FINAL), 0)
        self._member: str | None = None
        self._member_count = 0
        self._group_position = 0
        self._committed = 0

    def run(self, steps: int) -> list[Event]:
        """Do so many things, then bring everything to its end; return the history."""
        for reader in READERS:
            self.events.append(Assign(self._at(), reader, (0,)))
        actions = (self._invoke, self._append, self._complete, self._read, self._group)
        for _ in range(steps):
            self._chance.choice(actions)()
        while any(self._waiting.values()):
            self._append()
        while self._appended:
            self._complete()
        while self._group_position < len(self._log):
            self._group()
        self.events.append(Assign(self._at(), FINAL, (0,), final=True))
        while self._positions[FINAL] < len(self._log):
            self._poll(FINAL)
        return self.events

    def _at(self) -> int:
        self._now_ns += 1
        return self._now_ns

    def _send(self, phase: Phase, producer: str, value: int, offset: int | None = None) -> None:
        offsets = () if offset is None else (offset,)
        self.events.append(Send(self._at(), producer, value, phase, 0, (value,), offsets))

    def _invoke(self) -> None:
        producer = self._chance.choice(PRODUCERS)
        self._next_value += 1
        self._send(Phase.INVOKE, producer, self._next_value)
        self._waiting[producer].append(self._next_value)

    def _append(self) -> None:
        producer = self._chance.choice([name for name in PRODUCERS if self._waiting[name]] or [""])
        if not producer:
            return
        value = self._waiting[producer].popleft()
        fate = self._chance.random()
        if fate < 0.1:
            self._send(Phase.FAIL, producer, value)
        elif fate < 0.15:
            self._send(Phase.INFO, producer, value)
        else:
            self._log.append(value)
            self._appended.append((producer, len(self._log) - 1))

    def _complete(self) -> None:
        if self._appended:
            index = self._chance.randrange(len(self._appended))
            producer, offset = self._appended.pop(index)
            if self._chance.random() < 0.1:
                self._send(Phase.INFO, producer, self._log[offset])
            else:
                self._send(Phase.OK, producer, self._log[offset], offset)

    def _read(self) -> None:
        self._poll(self._chance.choice(READERS))

    def _poll(self, reader: str) -> None:
        start = self._positions[reader]
        self._positions[reader] = self._poll_from(reader, start)

    def _poll_from(self, process: str, start: int) -> int:
        values = tuple(self._log[start : start + self._chance.randint(1, 5)])
        if values:
            offsets = tuple(range(start, start + len(values)))
            self.events.append(Poll(self._at(), process, 0, offsets, values))
        return start + len(values)

    def _group(self) -> None:
        if self._member is None:
            self._member_count += 1
            self._member = f"member-{self._member_count}"
            self._group_position = self._committed
            self.events.append(Subscribe(self._at(), self._member, GROUP))
            self.events.append(Rebalance(self._at(), self._member, Change.ASSIGNED, (0,)))
            return
        fate = self._chance.random()
        if fate < 0.6:
            self._group_position = self._poll_from(self._member, self._group_position)
        elif fate < 0.9:
            self._committed = self._group_position
            offsets = {0: self._committed}
            self.events.append(Commit(self._at(), self._member, self._at(), Phase.OK, offsets))
        elif fate < 0.95:
            self.events.append(Rebalance(self._at(), self._member, Change.REVOKED, (0,)))
            self._member = None
        else:
            self.events.append(Stop(self._at(), self._member, killed=True))
            self._member = None
