"""What the admin face returns: frozen values, no protobuf. Pure."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from odradek.protocol.types import TopicPartition


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTopic:
    """A topic to create.

    Attributes:
        name: 1 to 249 of [a-zA-Z0-9._-].
        partitions: How many; None: the cluster's default.
        replication: How many replicas each; None: the cluster's default.
        config: Settings that differ from the defaults.
    """

    name: str
    partitions: int | None = None
    replication: int | None = None
    config: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class TopicSummary:
    """A topic in a list, or as just created.

    Attributes:
        name: Its name.
        topic_id: 32 hexadecimal digits; others after deletion and re-creation.
        partitions: How many.
        replication: How many replicas each partition has.
        internal: True for topics Odradek keeps for itself.
    """

    name: str
    topic_id: str
    partitions: int
    replication: int
    internal: bool = False


@dataclass(frozen=True, slots=True)
class PartitionDescription:
    """One partition.

    Attributes:
        partition: Its index.
        leader: The leading node; None when there is none.
        leader_epoch: Grows with each election.
        replicas: Nodes that hold it, the preferred leader first.
        isr: Replicas in sync.
        elr: Replicas that may still be elected although not in sync.
        adding: Replicas on their way to this partition; they catch up first.
        removing: Replicas that go once those are in sync.
    """

    partition: int
    leader: int | None
    leader_epoch: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    elr: tuple[int, ...] = ()
    adding: tuple[int, ...] = ()
    removing: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """One topic, whole.

    Attributes:
        name: Its name.
        topic_id: 32 hexadecimal digits.
        internal: True for topics Odradek keeps for itself.
        partitions: By index.
        config: Settings that differ from the defaults.
    """

    name: str
    topic_id: str
    internal: bool
    partitions: tuple[PartitionDescription, ...]
    config: Mapping[str, str]

    @property
    def replication(self) -> int:
        """How many replicas a partition has, or is about to have."""
        return max((len(each.replicas) - len(each.removing) for each in self.partitions), default=0)


@dataclass(frozen=True, slots=True)
class ReplicaProgress:
    """How far a replica is that is being added.

    Attributes:
        node_id: Its node.
        log_bytes: Bytes of batches in its leader's log.
        missing_bytes: Bytes of them that it does not have on disk yet.
    """

    node_id: int
    log_bytes: int
    missing_bytes: int

    @property
    def share(self) -> float:
        """How much of the log it has, 0 to 1."""
        return 1 - self.missing_bytes / self.log_bytes if self.log_bytes else 1.0


@dataclass(frozen=True, slots=True)
class Reassignment:
    """A partition whose replicas are moving.

    Attributes:
        topic: Its topic's name.
        partition: Where it is, and where it goes.
        progress: How far each replica being added is, where its leader could be asked.
    """

    topic: str
    partition: PartitionDescription
    progress: tuple[ReplicaProgress, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigEntry:
    """One setting in force.

    Attributes:
        key: Such as `retention.ms`.
        value: As text.
        is_default: True when the topic does not set it.
        documentation: One sentence.
    """

    key: str
    value: str
    is_default: bool
    documentation: str


@dataclass(frozen=True, slots=True)
class NodeDescription:
    """A broker node.

    Attributes:
        node_id: Its number.
        host: Where to dial it.
        port: Where to dial it.
        rack: Its failure domain; empty when none was configured.
        fenced: True while it may not lead.
        draining: True while it is to be emptied.
        leader_count: Partitions it leads.
        replica_count: Replicas it holds, those it is still receiving included.
        receiving_count: Replicas on their way to it.
        leaving_count: Replicas on their way from it.
        stopping: True while its process is about to stop.
        storage_full: True while its disk reserve is reached.
        store_set_aside: True while a store that cannot be read lies in its data directory: what no
            other replica has stays offline until somebody decides on it; its log says how.
    """

    node_id: int
    host: str
    port: int
    rack: str
    fenced: bool
    draining: bool
    leader_count: int
    replica_count: int
    receiving_count: int = 0
    leaving_count: int = 0
    stopping: bool = False
    storage_full: bool = False
    store_set_aside: bool = False

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ControllerDescription:
    """A controller as the answering node sees it.

    Attributes:
        controller_id: Its number; None when it was never reached.
        address: Where nodes dial it.
        active: True for the one that decides.
        reachable: True while the answering node is connected to it.
    """

    controller_id: int | None
    address: str
    active: bool
    reachable: bool


@dataclass(frozen=True, slots=True)
class ClusterDescription:
    """The cluster.

    Attributes:
        cluster_id: Its id.
        version: The metadata version of the answering node.
        nodes: By id.
        controllers: Every configured one.
        topic_count: Internal ones included.
        partition_count: Internal ones included.
        leaderless_count: Partitions nobody leads.
        under_replicated_count: Partitions with replicas out of sync.
        moving_count: Partitions whose replicas are moving.
    """

    cluster_id: str
    version: int
    nodes: tuple[NodeDescription, ...]
    controllers: tuple[ControllerDescription, ...]
    topic_count: int
    partition_count: int
    leaderless_count: int
    under_replicated_count: int
    moving_count: int = 0


class GroupState(enum.Enum):
    """What a group is doing."""

    UNKNOWN = "unknown"
    EMPTY = "empty"
    ASSIGNING = "assigning"
    RECONCILING = "reconciling"
    STABLE = "stable"
    DEAD = "dead"


class GroupMemberState(enum.Enum):
    """Where a member stands between its assignment and its target."""

    UNKNOWN = "unknown"
    STABLE = "stable"
    UNREVOKED_PARTITIONS = "unrevoked_partitions"
    UNRELEASED_PARTITIONS = "unreleased_partitions"


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """A consumer group in a list.

    Attributes:
        group: Its name.
        state: What it is doing.
        member_count: How many members it has.
    """

    group: str
    state: GroupState
    member_count: int


@dataclass(frozen=True, slots=True)
class GroupMemberDescription:
    """One member.

    Attributes:
        member_id: Its id.
        instance_id: Set for a static member.
        client_id: As its client calls itself.
        client_host: Where it dialled from.
        member_epoch: Its epoch.
        state: Where it stands.
        topics: What it subscribes.
        assigned: What it may read now.
        target: What it will read.
        rack: Its failure domain.
    """

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    member_epoch: int
    state: GroupMemberState
    topics: tuple[str, ...]
    assigned: tuple[TopicPartition, ...]
    target: tuple[TopicPartition, ...]
    rack: str


@dataclass(frozen=True, slots=True)
class GroupDescription:
    """One consumer group, whole.

    Attributes:
        group: Its name.
        state: What it is doing.
        group_epoch: Grows with each change of members or subscriptions.
        assignment_epoch: The group epoch the target was computed for.
        assignor: Who computes the target.
        coordinator_id: The node that coordinates it.
        members: In the coordinator's order.
    """

    group: str
    state: GroupState
    group_epoch: int
    assignment_epoch: int
    assignor: str
    coordinator_id: int
    members: tuple[GroupMemberDescription, ...]


@dataclass(frozen=True, slots=True)
class CommittedOffset:
    """How far a group has processed one partition.

    Attributes:
        offset: The next one to read.
        metadata: As committed.
        commit_time_ms: Milliseconds since the epoch.
    """

    offset: int
    metadata: str
    commit_time_ms: int

    @property
    def commit_time(self) -> datetime:
        """The same in UTC."""
        return datetime.fromtimestamp(self.commit_time_ms / 1000, UTC)
