"""Members of a group as honest SDKs are: they own what they were told, and give up what is missing.

A member goes on from the committed offset of a partition it was given, commits what it has
processed, and waits for its last commit before it confirms a revocation. At times it takes longer
over that than it may; at times it leaves, and joins again.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from odradek.node.coordination.frames import Frame
from odradek.node.coordination.model import (
    JOIN_EPOCH,
    LEAVE_EPOCH,
    LEAVE_STATIC_EPOCH,
    TopicIdPartition,
)
from odradek.protocol.types import FIRST_OFFSET, GroupId, MemberId, NodeId, Offset
from tests.simulation.cluster.clients import Client
from tests.simulation.cluster.groups import (
    TIMES,
    CommitOffset,
    FetchOffset,
    MemberHears,
    MemberSays,
    OffsetAnswer,
)
from tests.simulation.cluster.oracle import check

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

_ANSWER_TIMEOUT_S = 3.0
_HASTE = 10
_SLOW_REVOCATION_S = 1.5 * TIMES.rebalance_timeout_s


@dataclass(slots=True)
class _Claim:
    """A partition it owns."""

    position: Offset | None = None  # unknown until the committed offset was fetched
    committed: Offset = FIRST_OFFSET
    asked: int = 0  # correlation id of the request under way
    asked_at_s: float = 0.0
    floor: Offset = FIRST_OFFSET  # what was committed for certain when it was asked
    kept_until_s: float = 0.0  # how long the application takes to give it up


class SimulatedMember(Client):
    """A consumer in a group; with an instance id a static member."""

    def __init__(self, name: str, world: "World", group: str, instance_id: str = "") -> None:
        super().__init__(name, world)
        self.group = GroupId(group)
        self.instance_id = instance_id
        self.member_id = MemberId(name)
        self._correlation = 0
        self._stream = 0

    def start(self) -> None:
        super().start()
        self._epoch = JOIN_EPOCH
        self._claims: dict[TopicIdPartition, _Claim] = {}
        self._leaving: dict[TopicIdPartition, _Claim] = {}
        self._coordinator: NodeId | None = None
        self._is_told = False
        self._joins_at_s = 0.0
        self.every(0.1, self._tick)
        self.every(TIMES.heartbeat_interval_s, self._say)

    def die(self) -> None:
        super().die()
        self.member_id = MemberId(f"{self.name}-{self.life}")

    def leave(self) -> None:
        """Give everything up and say goodbye; join again later."""
        if self._coordinator is None or self.is_paused:
            return
        self._claims.clear()
        self._leaving.clear()
        comes_back = self.instance_id and self.chance.random() < 0.5
        self._epoch = LEAVE_STATIC_EPOCH if comes_back else LEAVE_EPOCH
        self._say()
        self._epoch = JOIN_EPOCH
        self._coordinator = None
        self._joins_at_s = self.now_s + self.chance.choice([0.0, 0.5, 8.0])

    @property
    def owned(self) -> frozenset[TopicIdPartition]:
        """What it may be reading."""
        return frozenset([*self._claims, *self._leaving])

    @property
    def committed(self) -> dict[TopicIdPartition, Offset]:
        """How far it has committed what it reads, as far as it was told."""
        return {partition: claim.committed for partition, claim in self._claims.items()}

    def _tick(self) -> None:
        if self._coordinator is None:
            self._look_for_coordinator()
            return
        for partition, claim in (*self._claims.items(), *self._leaving.items()):
            if claim.asked and self.now_s - claim.asked_at_s < _ANSWER_TIMEOUT_S:
                continue
            if claim.position is None:
                self._fetch(partition, claim)
            else:
                self._process(partition, claim)
        confirmed = [
            partition
            for partition, claim in self._leaving.items()
            if self.now_s >= claim.kept_until_s
            and (not claim.asked or self.now_s - claim.asked_at_s > _ANSWER_TIMEOUT_S)
        ]
        for partition in confirmed:
            del self._leaving[partition]
        if confirmed:
            self._say()

    def _look_for_coordinator(self) -> None:
        if self.now_s < self._joins_at_s:
            return
        found = self.leader_of(self.world.coordinator_uid(self.group))
        if found is not None:
            self._coordinator = found[0]
            self._stream += 1
            self._is_told = False
            self._say()

    def _say(self) -> None:
        if self._coordinator is None:
            return
        first = not self._is_told
        self._is_told = True
        frame = Frame(
            group=self.group,
            member_id=self.member_id,
            member_epoch=self._epoch,
            instance_id=self.instance_id,
            topics=frozenset([self.world.topic_name]) if first else None,
            rebalance_timeout_s=TIMES.rebalance_timeout_s if first else None,
            owned=self.owned,
        )
        self.link_to(self._coordinator).send(MemberSays(self._stream, frame))

    def on_answer(self, node_id: NodeId, answer: Any) -> None:
        if node_id != self._coordinator:
            return
        if isinstance(answer, MemberHears) and answer.stream == self._stream:
            self._hear(answer)
        elif isinstance(answer, OffsetAnswer):
            self._on_offset(answer)

    def on_lost(self, node_id: NodeId) -> None:
        if node_id == self._coordinator:
            self._coordinator = None

    def _hear(self, hears: MemberHears) -> None:
        if hears.ended:
            self._coordinator = None
            if hears.error is not None and not hears.error.retriable:
                self._epoch = JOIN_EPOCH
                self._claims.clear()
                self._leaving.clear()
            return
        self._epoch = hears.member_epoch
        if hears.assignment is None:
            return
        for partition in self._claims.keys() - hears.assignment:
            claim = self._leaving[partition] = self._claims.pop(partition)
            if self.world.is_restless and self.chance.random() < 0.1:
                claim.kept_until_s = self.now_s + _SLOW_REVOCATION_S
        for partition in sorted(hears.assignment - self._claims.keys()):
            self._leaving.pop(partition, None)
            self.world.on_claimed(self, partition)
            self._claims[partition] = _Claim()
        self._say()

    def _fetch(self, partition: TopicIdPartition, claim: _Claim) -> None:
        self._ask(claim)
        claim.floor = self.world.commits.get((self.group, partition), FIRST_OFFSET)
        self._request(FetchOffset(claim.asked, self.group, self.member_id, self._epoch, partition))

    def _process(self, partition: TopicIdPartition, claim: _Claim) -> None:
        assert claim.position is not None
        end = self.world.committed_end(partition)
        if partition in self._claims and claim.position < end:
            start = claim.position
            count = self.chance.randint(1, 20)
            if self.world.nemesis.has_healed:
                count *= _HASTE  # whoever waited for two sessions to end has a backlog
            claim.position = Offset(min(end, start + count))
            self.world.on_processed(self.group, partition, start, claim.position)
        if claim.position > claim.committed:
            self._ask(claim)
            self._request(
                CommitOffset(
                    claim.asked,
                    self.group,
                    self.member_id,
                    self._epoch,
                    partition,
                    claim.position,
                )
            )

    def _ask(self, claim: _Claim) -> None:
        self._correlation += 1
        claim.asked, claim.asked_at_s = self._correlation, self.now_s

    def _request(self, request: Any) -> None:
        assert self._coordinator is not None
        half = self.link_to(self._coordinator)
        half.send(request)
        if self.world.is_restless and self.chance.random() < 0.05:
            self.after(self.chance.random() * 0.5, lambda: half.send(request))  # late, once more

    def _on_offset(self, answer: OffsetAnswer) -> None:
        for partition, claim in (*self._claims.items(), *self._leaving.items()):
            if claim.asked != answer.correlation:
                continue
            claim.asked = 0
            if answer.error is not None:
                return
            if claim.position is None:
                position = answer.offset or FIRST_OFFSET
                check(
                    position >= claim.floor,
                    "committed offsets never go back",
                    "{} is told {} of {}, {} was committed",
                    self,
                    position,
                    partition,
                    claim.floor,
                )
                claim.position = claim.committed = position
            elif answer.offset is not None:
                claim.committed = max(claim.committed, answer.offset)
                self.world.on_offset_committed(self.group, partition, answer.offset)
            return
