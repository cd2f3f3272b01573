"""Commands and snapshots as the Raft log and the disk hold them.

Every value of the state goes through one pair of functions here, whether it stands in a record or
in a snapshot. Reading is for bytes this program wrote: what it cannot read ends the process, for a
controller that skipped a record would differ from the others for ever.
"""

from collections.abc import Iterable, Mapping
from typing import cast

from odradek.controller import groups_wire
from odradek.controller.state import groups
from odradek.controller.state.image import ClusterImage
from odradek.controller.state.records import (
    Command,
    ControllerChanged,
    Node,
    NodeConditionChanged,
    NodeFenced,
    NodeRegistered,
    NodeRemoved,
    NodeUnfenced,
    Partition,
    PartitionChanged,
    PartitionsAdded,
    ProducerIdsGranted,
    Record,
    RequestAnswered,
    Topic,
    TopicConfigChanged,
    TopicCreated,
    TopicDeleted,
    TopicSettings,
)
from odradek.protocol.types import (
    ControllerId,
    Incarnation,
    LeaderEpoch,
    NodeId,
    PartitionEpoch,
    PartitionUid,
    ProducerId,
    TopicId,
    TopicName,
)
from odradek.v1 import cluster_record_pb2 as pb
from odradek.v1 import group_record_pb2

_TOO_NEW = "a record of a newer release: upgrade this controller first"


def encode_record(record: Record) -> pb.ClusterRecord:  # noqa: C901, PLR0912 - one case a record
    """Return the message of a record."""
    match record:
        case PartitionChanged():  # first: one death may bring thousands
            return pb.ClusterRecord(partition_changed=_partition_to_proto(record.partition))
        case ControllerChanged():
            changed = pb.ControllerChanged(
                controller_id=record.controller_id, cluster_id=record.cluster_id
            )
            return pb.ClusterRecord(controller_changed=changed)
        case NodeRegistered():
            return pb.ClusterRecord(node_registered=_node_to_proto(record.node))
        case NodeFenced():
            return pb.ClusterRecord(node_fenced=pb.NodeFenced(node_id=record.node_id))
        case NodeUnfenced():
            return pb.ClusterRecord(node_unfenced=pb.NodeUnfenced(node_id=record.node_id))
        case NodeConditionChanged():
            condition = pb.NodeConditionChanged(
                node_id=record.node_id,
                stopping=record.stopping,
                draining=record.draining,
                storage_full=record.storage_full,
            )
            return pb.ClusterRecord(node_condition_changed=condition)
        case NodeRemoved():
            return pb.ClusterRecord(node_removed=pb.NodeRemoved(node_id=record.node_id))
        case TopicCreated():
            return pb.ClusterRecord(topic_created=_topic_to_proto(record.topic, record.partitions))
        case TopicDeleted():
            return pb.ClusterRecord(topic_deleted=pb.TopicDeleted(topic_id=record.topic_id))
        case TopicConfigChanged():
            config = pb.TopicConfigChanged(topic_id=record.topic_id, config=dict(record.config))
            return pb.ClusterRecord(topic_config_changed=config)
        case PartitionsAdded():
            added = pb.PartitionsAdded(
                topic_id=record.topic_id, partitions=map(_partition_to_proto, record.partitions)
            )
            return pb.ClusterRecord(partitions_added=added)
        case ProducerIdsGranted():
            granted = pb.ProducerIdsGranted(next_producer_id=record.next_producer_id)
            return pb.ClusterRecord(producer_ids_granted=granted)
        case RequestAnswered():
            return pb.ClusterRecord(request_answered=_answer_to_proto(record))
        case _:
            return pb.ClusterRecord(group=groups_wire.record_to_proto(record))


def decode_command(encoded: bytes) -> Command:
    """Return the command that was encoded."""
    command = pb.ClusterCommand.FromString(encoded)
    return Command(
        command.controller_epoch,
        command.sequence,
        tuple(_decode_record(record) for record in command.records),
        command.continued,
        command.continues,
    )


def encode_command(
    epoch: int,
    sequence: int,
    records: Iterable[pb.ClusterRecord],
    *,
    continued: bool = False,
    continues: bool = False,
) -> bytes:
    """Return the command of records encoded already (their sizes decide what goes into one)."""
    return pb.ClusterCommand(
        controller_epoch=epoch,
        sequence=sequence,
        records=records,
        continued=continued,
        continues=continues,
    ).SerializeToString()


def encode_accepted(*, accepted: bool) -> bytes:
    """Return what applying a command answers."""
    return pb.ClusterCommandAnswer(accepted=accepted).SerializeToString()


def decode_accepted(encoded: bytes) -> bool:
    """Tell whether a command was accepted."""
    return pb.ClusterCommandAnswer.FromString(encoded).accepted


def encode_snapshot(image: ClusterImage) -> bytes:
    """Return the whole state."""
    return pb.ClusterSnapshot(
        version=image.version,
        cluster_id=image.cluster_id,
        controller_id=image.controller_id,
        controller_epoch=image.controller_epoch,
        command_sequence=image.command_sequence,
        next_incarnation=image.next_incarnation,
        next_partition_uid=image.next_partition_uid,
        next_producer_id=image.next_producer_id,
        nodes=map(_node_to_proto, image.nodes.values()),
        topics=(
            _topic_to_proto(topic, image.partitions_of(topic)) for topic in image.topics.values()
        ),
        answers=map(_answer_to_proto, image.answers.all()),
        groups=map(groups_wire.record_to_proto, groups.snapshot(image.groups)),
        unfinished=map(encode_record, image.unfinished),
    ).SerializeToString()


def decode_snapshot(encoded: bytes) -> ClusterImage:
    """Return the state that was encoded."""
    snapshot = pb.ClusterSnapshot.FromString(encoded)
    image = ClusterImage(
        version=snapshot.version,
        cluster_id=snapshot.cluster_id,
        controller_id=ControllerId(snapshot.controller_id),
        controller_epoch=snapshot.controller_epoch,
        command_sequence=snapshot.command_sequence,
        nodes={node.node_id: node for node in map(_node_from_proto, snapshot.nodes)},
    )
    for topic in snapshot.topics:
        image.apply(_topic_from_proto(topic))
    for record in snapshot.groups:
        image.apply(_group_from_proto(record))
    for answer in snapshot.answers:
        image.answers.remember(_answer_from_proto(answer))
    image.unfinished = tuple(map(_decode_record, snapshot.unfinished))
    image.next_incarnation = Incarnation(snapshot.next_incarnation)
    image.next_partition_uid = PartitionUid(snapshot.next_partition_uid)
    image.next_producer_id = ProducerId(snapshot.next_producer_id)
    return image


def _decode_record(record: pb.ClusterRecord) -> Record:  # noqa: C901, PLR0912 - one case a record
    match record.WhichOneof("record"):
        case "partition_changed":
            return PartitionChanged(_partition_from_proto(record.partition_changed))
        case "controller_changed":
            changed = record.controller_changed
            return ControllerChanged(ControllerId(changed.controller_id), changed.cluster_id)
        case "node_registered":
            return NodeRegistered(_node_from_proto(record.node_registered))
        case "node_fenced":
            return NodeFenced(NodeId(record.node_fenced.node_id))
        case "node_unfenced":
            return NodeUnfenced(NodeId(record.node_unfenced.node_id))
        case "node_condition_changed":
            condition = record.node_condition_changed
            return NodeConditionChanged(
                NodeId(condition.node_id),
                condition.stopping,
                condition.draining,
                condition.storage_full,
            )
        case "node_removed":
            return NodeRemoved(NodeId(record.node_removed.node_id))
        case "topic_created":
            return _topic_from_proto(record.topic_created)
        case "topic_deleted":
            return TopicDeleted(TopicId(record.topic_deleted.topic_id))
        case "topic_config_changed":
            config = record.topic_config_changed
            return TopicConfigChanged(TopicId(config.topic_id), _settings(config.config))
        case "partitions_added":
            added = record.partitions_added
            partitions = tuple(map(_partition_from_proto, added.partitions))
            return PartitionsAdded(TopicId(added.topic_id), partitions)
        case "producer_ids_granted":
            return ProducerIdsGranted(ProducerId(record.producer_ids_granted.next_producer_id))
        case "request_answered":
            return _answer_from_proto(record.request_answered)
        case "group":
            return _group_from_proto(record.group)
        case None:
            raise ValueError(_TOO_NEW)


def _node_to_proto(node: Node) -> pb.ClusterNode:
    return pb.ClusterNode(
        node_id=node.node_id,
        incarnation=node.incarnation,
        directory_id=node.directory_id,
        process_id=node.process_id,
        host=node.host,
        port=node.port,
        rack=node.rack,
        software_version=node.software_version,
        fenced=node.fenced,
        fenced_version=node.fenced_version,
        stopping_version=node.stopping_version,
        draining=node.draining,
        storage_full=node.storage_full,
        store_set_aside=node.store_set_aside,
    )


def _node_from_proto(node: pb.ClusterNode) -> Node:
    return Node(
        node_id=NodeId(node.node_id),
        incarnation=Incarnation(node.incarnation),
        directory_id=node.directory_id,
        process_id=node.process_id,
        host=node.host,
        port=node.port,
        rack=node.rack,
        software_version=node.software_version,
        fenced=node.fenced,
        fenced_version=node.fenced_version,
        stopping_version=node.stopping_version,
        draining=node.draining,
        storage_full=node.storage_full,
        store_set_aside=node.store_set_aside,
    )


def _topic_to_proto(topic: Topic, partitions: Iterable[Partition]) -> pb.TopicCreated:
    return pb.TopicCreated(
        topic_id=topic.topic_id,
        name=topic.name,
        config=dict(topic.config),
        partitions=map(_partition_to_proto, partitions),
        pages_until_version=topic.pages_until_version,
    )


def _topic_from_proto(created: pb.TopicCreated) -> TopicCreated:
    partitions = tuple(map(_partition_from_proto, created.partitions))
    topic = Topic(
        topic_id=TopicId(created.topic_id),
        name=TopicName(created.name),
        config=_settings(created.config),
        partitions=tuple(partition.uid for partition in partitions),
        pages_until_version=created.pages_until_version,
    )
    return TopicCreated(topic, partitions)


def _settings(config: Mapping[str, str]) -> TopicSettings:
    return tuple(sorted(config.items()))


def _partition_to_proto(partition: Partition) -> pb.ClusterPartition:
    message = pb.ClusterPartition(
        uid=partition.uid,
        leader_id=partition.leader,
        leader_epoch=partition.leader_epoch,
        partition_epoch=partition.partition_epoch,
        replicas=partition.replicas,
        isr=partition.isr,
    )
    # Mostly empty, and an empty list costs as much as a full one.
    if partition.elr:
        message.elr.extend(partition.elr)
    if partition.last_known_elr:
        message.last_known_elr.extend(partition.last_known_elr)
    if partition.adding:
        message.adding_replicas.extend(partition.adding)
    if partition.removing:
        message.removing_replicas.extend(partition.removing)
    return message


def _partition_from_proto(partition: pb.ClusterPartition) -> Partition:
    return Partition(
        uid=PartitionUid(partition.uid),
        leader=NodeId(partition.leader_id),
        leader_epoch=LeaderEpoch(partition.leader_epoch),
        partition_epoch=PartitionEpoch(partition.partition_epoch),
        replicas=_node_ids(partition.replicas),
        isr=_node_ids(partition.isr),
        elr=_node_ids(partition.elr),
        last_known_elr=_node_ids(partition.last_known_elr),
        adding=_node_ids(partition.adding_replicas),
        removing=_node_ids(partition.removing_replicas),
    )


def _group_from_proto(record: group_record_pb2.GroupRecord) -> groups.GroupRecord:
    decoded = groups_wire.record_from_proto(record)
    if decoded is None:
        raise ValueError(_TOO_NEW)
    return decoded


def _node_ids(ids: Iterable[int]) -> tuple[NodeId, ...]:
    # A node that dies may change ten thousand partitions: no call for each id.
    return cast("tuple[NodeId, ...]", tuple(ids))


def _answer_to_proto(answer: RequestAnswered) -> pb.RequestAnswered:
    return pb.RequestAnswered(
        node_id=answer.node_id,
        incarnation=answer.incarnation,
        sequence=answer.sequence,
        answer=answer.answer,
    )


def _answer_from_proto(answer: pb.RequestAnswered) -> RequestAnswered:
    return RequestAnswered(
        node_id=NodeId(answer.node_id),
        incarnation=Incarnation(answer.incarnation),
        sequence=answer.sequence,
        answer=answer.answer,
    )
