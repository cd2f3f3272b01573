"""What nodes say to each other about partitions, and to themselves about what is due."""

from dataclasses import dataclass

from odradek.node.replication.session import Announcement
from odradek.node.storage.epochs import EpochEnd
from odradek.protocol.types import Incarnation, LeaderEpoch, NodeId, Offset, PartitionUid
from tests.simulation.cluster.disk import Batch


@dataclass(frozen=True, slots=True)
class PushDueAt:
    """A follower of a partition is to be sent what follows its cursor."""

    uid: PartitionUid
    follower: NodeId


@dataclass(frozen=True, slots=True)
class Open:
    """Who opens a stream; the opener counts its links."""

    node_id: NodeId
    incarnation: Incarnation
    link: int

    @property
    def number(self) -> tuple[Incarnation, int]:
        """Grows with each link of a node."""
        return self.incarnation, self.link


@dataclass(frozen=True, slots=True)
class AnnounceFrame:
    """A follower says where its log ends."""

    uid: PartitionUid
    announcement: Announcement


@dataclass(frozen=True, slots=True)
class AckFrame:
    """A follower says what is on its disk."""

    uid: PartitionUid
    leader_epoch: LeaderEpoch
    session: int
    durable_end: Offset


@dataclass(frozen=True, slots=True)
class PushFrame:
    """What a leader has for a follower."""

    uid: PartitionUid
    leader_epoch: LeaderEpoch
    session: int
    batches: tuple[Batch, ...]
    high_watermark: Offset


@dataclass(frozen=True, slots=True)
class DivergingFrame:
    """The logs part."""

    uid: PartitionUid
    leader_epoch: LeaderEpoch
    session: int
    end: EpochEnd


@dataclass(frozen=True, slots=True)
class RefusedFrame:
    """The announcement is not taken."""

    uid: PartitionUid
    leader_epoch: LeaderEpoch
    session: int


@dataclass(frozen=True, slots=True)
class Probe:
    """A leader asks whether it is still followed."""

    uid: PartitionUid
    leader_epoch: LeaderEpoch
    number: int


@dataclass(frozen=True, slots=True)
class Followed:
    """It is, by this node."""

    number: int
