"""Links between controllers with the transport's promises: in order, until the link breaks.

A cut link holds up its messages: mended before the sender noticed, it delivers them late, as TCP
does. A broken link loses what was in flight, but not at once: an old stream goes on delivering
until the new one is accepted. A hostile network breaks even the transport's promises (it repeats,
reorders and drops single messages), which raft itself must bear.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from odradek.controller.raft.encoding import decode, encode
from odradek.controller.raft.messages import Message
from odradek.protocol.types import ControllerId

Pair = tuple[ControllerId, ControllerId]


@dataclass(slots=True)
class Link:
    is_up: bool = False
    dial_at_s: float = 0.0
    held_until_s: float = 0.0
    in_flight: list[tuple[float, Message]] = field(default_factory=list)


class Network:
    def __init__(self, chance: random.Random, members: list[ControllerId]) -> None:
        self.links = {(a, b): Link() for a in members for b in members if a != b}
        self._cut: dict[Pair, float] = {}  # pair -> when its sender notices
        self.delay_s = chance.choice([0.002, 0.01, 0.05])
        self.tail_s = chance.choice([0.0, 0.1, 1.5, 4.0])
        self.is_hostile = chance.random() < 0.3
        self._chance = chance

    def send(
        self, sender: ControllerId, receiver: ControllerId, message: Message, now_s: float
    ) -> None:
        link = self.links[sender, receiver]
        if not link.is_up:
            return
        message = decode(encode(message))
        delay_s = self._chance.expovariate(1 / self.delay_s)
        if self._chance.random() < 0.02:
            delay_s += self._chance.uniform(0, self.tail_s)
        arrival_s = now_s + delay_s
        if not self.is_hostile:
            if link.in_flight:
                arrival_s = max(arrival_s, link.in_flight[-1][0])
            link.in_flight.append((arrival_s, message))
            return
        for _ in range(self._chance.choice([0, 1, 1, 1, 1, 1, 1, 1, 1, 2])):
            link.in_flight.append((arrival_s, message))
            arrival_s += self._chance.uniform(0, self.tail_s)
        link.in_flight.sort(key=lambda one: one[0])

    def arrived(self, receiver: ControllerId, now_s: float) -> list[tuple[ControllerId, Message]]:
        """Take what has arrived at a controller."""
        taken: list[tuple[ControllerId, Message]] = []
        for (sender, to), link in self.links.items():
            if to != receiver or (sender, to) in self._cut or now_s < link.held_until_s:
                continue
            while link.in_flight and link.in_flight[0][0] <= now_s:
                taken.append((sender, link.in_flight.pop(0)[1]))
        return taken

    def changes(
        self, sender: ControllerId, alive: set[ControllerId], now_s: float
    ) -> Iterator[tuple[ControllerId, bool]]:
        """Yield (peer, is up) for each link of a controller that broke or was dialled anew."""
        for (a, b), link in self.links.items():
            if a != sender:
                continue
            works = b in alive and now_s < self._cut.get((a, b), float("inf"))
            if link.is_up and (not works or self._chance.random() < 0.0005):
                link.is_up = False
                link.dial_at_s = now_s + self._chance.uniform(0.0, 0.3)
                yield b, False
            elif (
                not link.is_up
                and b in alive
                and (a, b) not in self._cut
                and now_s >= link.dial_at_s
            ):
                link.is_up = True
                if not self.is_hostile:
                    link.in_flight.clear()  # superseded
                yield b, True

    def cut(self, pairs: Iterable[Pair], now_s: float) -> None:
        """Hold up what is sent from now on; a sender notices some time later, or never."""
        for pair in pairs:
            self._cut.setdefault(pair, now_s + self._chance.choice([0.0, 0.5, 3.0]))

    def mend(self) -> None:
        """Let everything through again; what was held up on streams that survived, too."""
        self._cut.clear()

    def hold(self, pair: Pair, until_s: float) -> None:
        """Delay what travels on a link, without loss."""
        self.links[pair].held_until_s = until_s

    def release(self) -> None:
        """End every delay."""
        for link in self.links.values():
            link.held_until_s = 0.0

    def forget(self, member: ControllerId, *, sent: bool) -> None:
        """A process ended: its streams end, and what others sent to it is lost."""
        for (a, b), link in self.links.items():
            if member in {a, b}:
                link.is_up = False
            if b == member or (a == member and sent):
                link.in_flight.clear()
