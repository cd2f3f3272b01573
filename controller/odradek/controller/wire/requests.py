"""What nodes ask, and what they are answered.

A `SubmitRequest` becomes one request of the state; its reply becomes a `SubmitResponse`, encoded
without versions (they are known once the command is committed) so that a retry gets the same bytes.
"""

from odradek.controller import groups_wire
from odradek.controller.state.decide import (
    AllocateProducerIds,
    AlterPartitions,
    AlterReplication,
    AlterTopicConfigs,
    ChangeGroups,
    CreateInternalTopic,
    CreatePartitions,
    CreateTopics,
    DeleteTopics,
    DrainNode,
    NodeReply,
    NodeRequest,
    PartitionsReply,
    Reassign,
    ReassignReply,
    RemoveNode,
    Submission,
    TopicsReply,
)
from odradek.controller.state.groups import GroupDecision
from odradek.controller.state.nodes import RegisterNode
from odradek.controller.state.partitions import IsrMember, IsrOutcome, IsrProposal
from odradek.controller.state.producer_ids import ProducerIdBlock
from odradek.controller.state.replicas import Draining, NewReplication, Reassignment, Removed
from odradek.controller.state.topics import (
    ConfigChange,
    NewPartitions,
    NewTopic,
    TopicOutcome,
    TopicRef,
)
from odradek.controller.wire.metadata import partition_to_proto
from odradek.protocol.errors import BrokerError, InvalidRequestError, error_to_proto
from odradek.protocol.types import (
    Incarnation,
    LeaderEpoch,
    NodeId,
    PartitionEpoch,
    PartitionIndex,
    TopicId,
)
from odradek.v1 import admin_pb2, controller_pb2

_TopicResults = (
    admin_pb2.CreateTopicsResponse
    | admin_pb2.DeleteTopicsResponse
    | admin_pb2.CreatePartitionsResponse
    | admin_pb2.AlterTopicConfigsResponse
    | admin_pb2.AlterReplicationResponse
)


def registration_from_proto(request: controller_pb2.RegisterNodeRequest) -> RegisterNode:
    """Return the registration a node asks for."""
    return RegisterNode(
        cluster_id=request.cluster_id,
        node_id=NodeId(request.node_id),
        directory_id=request.directory_id,
        process_id=request.process_id,
        host=request.host,
        port=request.port,
        rack=request.rack,
        lost_data=request.lost_data,
        unclean_boot=request.unclean_boot,
        synced_metadata_version=request.synced_metadata_version,
        replace=request.replace,
        software_version=request.software_version,
        store_set_aside=request.store_set_aside,
        previous_incarnation=Incarnation(request.previous_incarnation),
    )


def submission_from_proto(request: controller_pb2.SubmitRequest) -> Submission:
    """Return the request of a node's incarnation.

    Raises:
        InvalidRequestError: No command this release knows.
        BrokerError: A command that breaks a limit.
    """
    return Submission(
        NodeId(request.node_id),
        Incarnation(request.incarnation),
        request.sequence,
        _command_from_proto(request),
    )


def _command_from_proto(  # noqa: C901, PLR0912 - one case a command
    request: controller_pb2.SubmitRequest,
) -> NodeRequest:
    match request.WhichOneof("command"):
        case "create_topics":
            return _create_topics(request.create_topics)
        case "delete_topics":
            return DeleteTopics(tuple(map(_ref, request.delete_topics.topics)))
        case "create_partitions":
            grown = tuple(
                NewPartitions(_ref(each.topic), each.partitions)
                for each in request.create_partitions.topics
            )
            return CreatePartitions(grown, request.create_partitions.validate_only)
        case "alter_topic_configs":
            changes = tuple(
                ConfigChange(_ref(each.topic), dict(each.set), tuple(each.unset))
                for each in request.alter_topic_configs.topics
            )
            return AlterTopicConfigs(changes, request.alter_topic_configs.validate_only)
        case "alter_replication":
            resized = tuple(
                NewReplication(_ref(each.topic), each.replication_factor)
                for each in request.alter_replication.topics
            )
            return AlterReplication(resized, request.alter_replication.validate_only)
        case "alter_partition_reassignments":
            moves = request.alter_partition_reassignments.partitions
            return Reassign(tuple(map(_reassignment, moves)))
        case "drain_node":
            wanted = not request.drain_node.cancel
            return DrainNode(NodeId(request.drain_node.node_id), wanted=wanted)
        case "remove_node":
            return RemoveNode(NodeId(request.remove_node.node_id))
        case "allocate_producer_ids":
            return AllocateProducerIds()
        case "create_internal_topic":
            return CreateInternalTopic(request.create_internal_topic.name)
        case "change_groups":
            epoch = LeaderEpoch(request.change_groups.leader_epoch)
            return ChangeGroups(epoch, groups_wire.command_from_proto(request.change_groups))
        case "alter_partitions":
            return AlterPartitions(tuple(map(_proposal, request.alter_partitions.partitions)))
        case None:
            raise InvalidRequestError(
                "the request holds no command this controller knows", field="command"
            )


def _create_topics(request: admin_pb2.CreateTopicsRequest) -> CreateTopics:
    topics = tuple(
        NewTopic(
            topic.name,
            topic.partitions if topic.partitions or topic.partitions_set else None,
            topic.replication_factor
            if topic.replication_factor or topic.replication_factor_set
            else None,
            dict(topic.config),
        )
        for topic in request.topics
    )
    return CreateTopics(topics, request.validate_only)


def _ref(topic: admin_pb2.TopicRef) -> TopicRef:
    return TopicRef(topic.name, topic.topic_id)


def _reassignment(partition: admin_pb2.PartitionReassignment) -> Reassignment:
    replicas = tuple(map(NodeId, partition.replicas))
    return Reassignment(
        _ref(partition.topic),
        PartitionIndex(partition.partition),
        None if partition.cancel else replicas,
    )


def _proposal(partition: controller_pb2.AlterPartition) -> IsrProposal:
    return IsrProposal(
        TopicId(partition.topic_id),
        PartitionIndex(partition.partition),
        LeaderEpoch(partition.leader_epoch),
        PartitionEpoch(partition.partition_epoch),
        tuple(
            IsrMember(NodeId(member.node_id), Incarnation(member.incarnation))
            for member in partition.isr
        ),
    )


def encode_reply(request: NodeRequest, reply: NodeReply) -> bytes:
    """Return the encoded answer, without versions."""
    response = controller_pb2.SubmitResponse()
    match reply:
        case TopicsReply():
            _fill_topics(response, request, reply)
        case ProducerIdBlock():
            response.allocate_producer_ids.first_producer_id = reply.first
            response.allocate_producer_ids.count = reply.count
        case GroupDecision():
            response.change_groups.CopyFrom(groups_wire.result_to_proto(reply))
        case PartitionsReply():
            response.alter_partitions.partitions.extend(map(_isr_outcome, reply.outcomes))
        case ReassignReply():
            response.alter_partition_reassignments.partitions.extend(
                map(_reassign_outcome, reply.outcomes)
            )
        case Draining():
            response.drain_node.SetInParent()
            response.drain_node.replica_count = reply.replica_count
        case Removed():
            response.remove_node.SetInParent()
    return response.SerializeToString()


def answer_to_proto(encoded: bytes, version: int) -> controller_pb2.SubmitResponse:
    """Return the answer of a submission whose result the version holds."""
    response = controller_pb2.SubmitResponse.FromString(encoded)
    response.version = version
    match response.WhichOneof("result"):
        case "create_topics":
            response.create_topics.version = version
        case "delete_topics":
            response.delete_topics.version = version
        case "create_partitions":
            response.create_partitions.version = version
        case "alter_topic_configs":
            response.alter_topic_configs.version = version
        case "alter_replication":
            response.alter_replication.version = version
        case "alter_partition_reassignments":
            response.alter_partition_reassignments.version = version
        case "drain_node":
            response.drain_node.version = version
        case "remove_node":
            response.remove_node.version = version
    return response


def refusal_to_proto(error: BrokerError) -> controller_pb2.SubmitResponse:
    """Return the answer of a submission that was refused as a whole."""
    return controller_pb2.SubmitResponse(error=error_to_proto(error))


def _fill_topics(
    response: controller_pb2.SubmitResponse, request: NodeRequest, reply: TopicsReply
) -> None:
    result: _TopicResults
    match request:
        case DeleteTopics():
            result = response.delete_topics
        case CreatePartitions():
            result = response.create_partitions
        case AlterTopicConfigs():
            result = response.alter_topic_configs
        case AlterReplication():
            result = response.alter_replication
        case _:
            result = response.create_topics
    result.SetInParent()  # an answer about no topics is still of its kind
    result.topics.extend(map(_topic_outcome, reply.outcomes))


def _topic_outcome(outcome: TopicOutcome) -> admin_pb2.TopicResult:
    return admin_pb2.TopicResult(
        name=outcome.name,
        topic_id=outcome.topic_id,
        error=None if outcome.error is None else error_to_proto(outcome.error),
        partitions=outcome.partitions,
        replication_factor=outcome.replication,
    )


def _reassign_outcome(error: BrokerError | None) -> admin_pb2.PartitionReassignmentResult:
    return admin_pb2.PartitionReassignmentResult(
        error=None if error is None else error_to_proto(error)
    )


def _isr_outcome(outcome: IsrOutcome) -> controller_pb2.AlterPartitionResult:
    return controller_pb2.AlterPartitionResult(
        error=None if outcome.error is None else error_to_proto(outcome.error),
        partition=None
        if outcome.partition is None
        else partition_to_proto(outcome.index, outcome.partition),
    )
