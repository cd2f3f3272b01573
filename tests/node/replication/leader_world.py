"""A leader of three replicas, and what the controller has decided."""

from dataclasses import dataclass, field

from odradek.node.cluster.image import PartitionState
from odradek.node.replication.isr import ProposeIsr
from odradek.node.replication.leader import Effect, LeaderReplica
from odradek.node.replication.session import Announcement, HighWatermarkAdvanced
from odradek.node.storage.epochs import LeaderEpochs
from odradek.protocol.types import (
    Incarnation,
    LeaderEpoch,
    NodeId,
    Offset,
    PartitionEpoch,
    PartitionIndex,
    PartitionUid,
)

N1, N2, N3, N4 = map(NodeId, (1, 2, 3, 4))
ALL = (N1, N2, N3)
EPOCH = LeaderEpoch(7)
LAG_S = 30.0


def state(isr: tuple[NodeId, ...], partition_epoch: int = 0) -> PartitionState:
    return PartitionState(
        index=PartitionIndex(0),
        uid=PartitionUid(1),
        leader_id=N1,
        leader_epoch=EPOCH,
        partition_epoch=PartitionEpoch(partition_epoch),
        replicas=ALL,
        isr=isr,
    )


def epochs(*entries: tuple[int, int]) -> LeaderEpochs:
    made = LeaderEpochs()
    for epoch, start in entries:
        made.assign(LeaderEpoch(epoch), Offset(start))
    return made


@dataclass
class World:
    """A leader of three replicas, and what has been agreed with the controller."""

    isr: tuple[NodeId, ...] = ALL
    min_insync: int = 1
    log_end: int = 0
    durable_end: int = 0
    high_watermark: int = 0
    epochs: LeaderEpochs = field(default_factory=LeaderEpochs)
    now_s: float = 100.0
    live: dict[NodeId, Incarnation] = field(
        default_factory=lambda: {node_id: Incarnation(10 + node_id) for node_id in ALL}
    )
    partition_epoch: int = 0
    core: LeaderReplica = field(init=False)
    sessions: dict[NodeId, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.core = LeaderReplica(
            N1,
            state(self.isr),
            self.live,
            min_insync=self.min_insync,
            log_end=Offset(self.log_end),
            durable_end=Offset(self.durable_end),
            high_watermark=Offset(self.high_watermark),
            now_s=self.now_s,
            lag_time_max_s=LAG_S,
        )

    def announce(
        self,
        follower: NodeId,
        log_end: int,
        last_epoch: int = -1,
        *,
        durable_end: int | None = None,
        leader_epoch: LeaderEpoch = EPOCH,
        incarnation: int | None = None,
        log_start: int = 0,
    ) -> list[Effect]:
        self.sessions[follower] = self.sessions.get(follower, 0) + 1
        announced = Announcement(
            leader_epoch,
            self.sessions[follower],
            LeaderEpoch(last_epoch),
            Offset(log_end),
            Offset(log_end if durable_end is None else durable_end),
        )
        chosen = self.live.get(follower, Incarnation(1)) if incarnation is None else incarnation
        return self.core.on_announced(
            follower,
            Incarnation(chosen),
            announced,
            self.epochs,
            Offset(log_start),
            now_s=self.now_s,
        )

    def append(self, log_end: int) -> list[Effect]:
        self.epochs.assign(EPOCH, self.core.log_end_offset)
        return self.core.on_appended(Offset(log_end))

    def send(self, follower: NodeId, end: int) -> None:
        self.core.on_sent(follower, self.sessions[follower], Offset(end), self.now_s)

    def ack(self, follower: NodeId, end: int) -> list[Effect]:
        return self.core.on_acked(
            follower, self.live[follower], self.sessions[follower], Offset(end), self.now_s
        )

    def image(self, *isr: NodeId) -> list[Effect]:
        self.partition_epoch += 1
        return self.core.on_image(
            state(isr, self.partition_epoch), self.live, self.min_insync, self.now_s
        )

    def tick(self, seconds: float) -> list[Effect]:
        self.now_s += seconds
        return self.core.on_tick(self.now_s)


def committed(end: int) -> HighWatermarkAdvanced:
    return HighWatermarkAdvanced(Offset(end))


def proposed(effects: list[Effect]) -> tuple[NodeId, ...] | None:
    found = [effect for effect in effects if isinstance(effect, ProposeIsr)]
    assert len(found) <= 1
    return tuple(member.node_id for member in found[0].isr) if found else None
