"""A cluster for tests of the pure state: short words for what nodes and people do."""

from collections.abc import Mapping
from dataclasses import replace as replaced
from random import Random

from odradek.controller.state.decide import NodeRequest, Reply, Request, Submission, decide
from odradek.controller.state.image import ClusterImage, Draft, PossibleLoss
from odradek.controller.state.nodes import (
    FenceNode,
    RegisterNode,
    Registration,
    ReportStorage,
    RetireNode,
    UnfenceNode,
)
from odradek.controller.state.partitions import IsrMember, IsrOutcome, IsrProposal, propose_isr
from odradek.controller.state.records import Command, ControllerChanged, Partition, PartitionChanged
from odradek.controller.state.topics import NewTopic, TopicOutcome, create_topics
from odradek.controller.wire.records import decode_command, encode_command, encode_record
from odradek.controller.wire.requests import encode_reply
from odradek.protocol.types import ControllerId, Incarnation, NodeId

CLUSTER = "test-cluster"


def registration(
    node_id: int,
    *,
    process: int = 1,
    directory: int | None = None,
    cluster_id: str = "",
    rack: str = "",
    replace: bool = False,
    lost_data: bool = False,
    unclean_boot: bool = False,
    store_set_aside: bool = False,
) -> RegisterNode:
    """Return what a process of a node asks for."""
    return RegisterNode(
        cluster_id=cluster_id,
        node_id=NodeId(node_id),
        directory_id=bytes([node_id if directory is None else directory]) * 16,
        process_id=bytes([process]) * 16,
        host=f"host-{node_id}",
        port=7070,
        rack=rack,
        replace=replace,
        lost_data=lost_data,
        unclean_boot=unclean_boot,
        store_set_aside=store_set_aside,
    )


class Cluster:
    """Commits each decision as one encoded command, as the active controller does."""

    def __init__(self, *, nodes: int = 0, seed: int = 1) -> None:
        self.image = ClusterImage()
        self.chance = Random(seed)
        self.log: list[bytes] = []
        self._sequence = -1
        self._epoch = 0
        self.losses: list[PossibleLoss] = []
        self._request_sequence = 0
        self.begin_epoch()
        for node_id in range(1, nodes + 1):
            self.start(node_id)

    def begin_epoch(self) -> None:
        """Another controller takes over."""
        self._epoch += 1
        self._sequence = -1
        draft = Draft(self.image)
        draft.record(ControllerChanged(ControllerId(1), CLUSTER))
        self._commit(draft)

    def decide(self, request: Request) -> Reply:
        """Decide and commit; what is refused raises and changes nothing."""
        draft = Draft(self.image)
        reply = decide(draft, request, self.chance, encode_reply)
        self._commit(draft)
        return reply

    def submit(self, request: NodeRequest, *, node_id: int = 1) -> Reply:
        """Let a node ask."""
        self._request_sequence += 1
        incarnation = self.image.nodes[NodeId(node_id)].incarnation
        return self.decide(
            Submission(NodeId(node_id), incarnation, self._request_sequence, request)
        )

    def register(self, node_id: int, *, process: int = 1, rack: str = "") -> Incarnation:
        """Let a process of a node register."""
        return self.admit(registration(node_id, process=process, rack=rack)).incarnation

    def admit(self, request: RegisterNode) -> Registration:
        """Let a process register that was told which registration is in force."""
        known = self.image.nodes.get(request.node_id)
        if known is not None:
            request = replaced(request, previous_incarnation=known.incarnation)
        reply = self.decide(request)
        assert isinstance(reply, Registration)
        return reply

    def unfence(self, node_id: int) -> None:
        """Let the node have seen everything."""
        incarnation = self.image.nodes[NodeId(node_id)].incarnation
        self.decide(UnfenceNode(NodeId(node_id), incarnation, self.image.version))

    def start(self, node_id: int, *, process: int = 1, rack: str = "") -> None:
        """Let a process of a node register and catch up."""
        self.register(node_id, process=process, rack=rack)
        self.unfence(node_id)

    def fence(self, node_id: int) -> None:
        """Let the node be dead."""
        node = self.image.nodes[NodeId(node_id)]
        self.decide(FenceNode(node.node_id, node.incarnation))

    def retire(self, node_id: int) -> None:
        """Let the node wish to stop."""
        node = self.image.nodes[NodeId(node_id)]
        self.decide(RetireNode(node.node_id, node.incarnation))

    def fill(self, node_id: int, *, full: bool = True) -> None:
        """Let the node have no room, or room again."""
        node = self.image.nodes[NodeId(node_id)]
        self.decide(ReportStorage(node.node_id, node.incarnation, full))

    def propose(self, partition: Partition, *isr: int) -> IsrOutcome:
        """Let the leader propose an ISR of nodes as they are now."""
        place = self.image.places[partition.uid]
        members = tuple(
            IsrMember(NodeId(each), self.image.nodes[NodeId(each)].incarnation) for each in isr
        )
        proposal = IsrProposal(
            place.topic_id,
            place.index,
            partition.leader_epoch,
            partition.partition_epoch,
            members,
        )
        draft = Draft(self.image)
        (outcome,) = propose_isr(draft, partition.leader, [proposal])
        self._commit(draft)
        return outcome

    def create(self, *topics: NewTopic, validate_only: bool = False) -> tuple[TopicOutcome, ...]:
        """Create topics."""
        draft = Draft(self.image)
        outcomes = create_topics(draft, topics, self.chance, validate_only=validate_only)
        self._commit(draft)
        return outcomes

    def topic(
        self,
        name: str,
        *,
        partitions: int = 1,
        replication: int = 1,
        config: Mapping[str, str] | None = None,
    ) -> list[Partition]:
        """Create one topic; return its partitions."""
        (outcome,) = self.create(NewTopic(name, partitions, replication, config))
        assert outcome.error is None, outcome.error
        return self.partitions(name)

    def assigned(
        self, name: str, *replicas: int, config: Mapping[str, str] | None = None
    ) -> Partition:
        """Create a topic of one partition with these replicas, all in sync, led by the first."""
        (partition,) = self.topic(name, replication=len(replicas), config=config)
        ids = tuple(map(NodeId, replicas))
        draft = Draft(self.image)
        draft.record(PartitionChanged(partition._replace(leader=ids[0], replicas=ids, isr=ids)))
        self._commit(draft)
        return self.image.partitions[partition.uid]

    def partitions(self, name: str) -> list[Partition]:
        """Return the partitions of a topic."""
        topic = self.image.topic_named(name)
        assert topic is not None
        return list(self.image.partitions_of(topic))

    def commit(self, draft: Draft) -> None:
        """Commit what a draft holds."""
        self._commit(draft)

    def _commit(self, draft: Draft) -> None:
        records = draft.take_records()
        self.losses.extend(draft.take_reports())
        if not records:
            return
        self._sequence += 1
        encoded = encode_command(self._epoch, self._sequence, map(encode_record, records))
        self.log.append(encoded)
        assert self.image.apply_command(len(self.log), decode_command(encoded))


def replay(
    log: list[bytes], *, image: ClusterImage | None = None, first_index: int = 1
) -> ClusterImage:
    """Return the image a log makes, from nothing or after a snapshot."""
    image = image or ClusterImage()
    for index, encoded in enumerate(log[first_index - 1 :], first_index):
        command: Command = decode_command(encoded)
        assert image.apply_command(index, command)
    return image
