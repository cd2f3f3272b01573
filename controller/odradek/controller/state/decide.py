"""The requests the active controller decides, and which rule decides each. Pure.

`decide(draft, request)` records what changes and returns the reply; it raises a `BrokerError`
before it records anything, or not at all. A submission (a request of a node's incarnation, with a
sequence) is decided once: its answer is recorded beside its effect.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import assert_never

from odradek.controller.state import elections, nodes, partitions, producer_ids, replicas, topics
from odradek.controller.state.group_changes import change_groups
from odradek.controller.state.groups import GroupChanges, GroupDecision
from odradek.controller.state.image import Draft
from odradek.controller.state.nodes import (
    FenceNode,
    RegisterNode,
    Registration,
    ReportStorage,
    RetireNode,
    UnfenceNode,
)
from odradek.controller.state.partitions import IsrOutcome, IsrProposal
from odradek.controller.state.producer_ids import ProducerIdBlock
from odradek.controller.state.rebalance import Rebalance, rebalance
from odradek.controller.state.records import RequestAnswered
from odradek.controller.state.replicas import Draining, NewReplication, Reassignment, Removed
from odradek.controller.state.topics import (
    ConfigChange,
    NewPartitions,
    NewTopic,
    TopicOutcome,
    TopicRef,
)
from odradek.protocol.errors import BrokerError, InvalidRequestError
from odradek.protocol.types import Incarnation, LeaderEpoch, NodeId

# An answer is one record, and a record must fit into one command of the log.
TOPICS_MAX = 250
CHANGES_MAX = 5_000


@dataclass(frozen=True, slots=True)
class FinishElections:
    """Elect wherever the leader is dead or missing: what a predecessor may have left half-done."""


@dataclass(frozen=True, slots=True)
class PreferLeaders:
    """Let preferred leaders lead again on nodes that have been up for a while; a few at a time."""

    nodes: tuple[NodeId, ...]
    count_max: int


@dataclass(frozen=True, slots=True)
class CreateTopics:
    """Create topics."""

    topics: tuple[NewTopic, ...]
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class CreateInternalTopic:
    """Create an internal topic unless it exists."""

    name: str


@dataclass(frozen=True, slots=True)
class DeleteTopics:
    """Delete topics."""

    topics: tuple[TopicRef, ...]


@dataclass(frozen=True, slots=True)
class CreatePartitions:
    """Add partitions."""

    topics: tuple[NewPartitions, ...]
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class AlterTopicConfigs:
    """Change settings."""

    changes: tuple[ConfigChange, ...]
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class AlterReplication:
    """Give topics more or fewer replicas."""

    topics: tuple[NewReplication, ...]
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class Reassign:
    """Give partitions other replicas."""

    partitions: tuple[Reassignment, ...]


@dataclass(frozen=True, slots=True)
class DrainNode:
    """Have a node emptied, or, when not `wanted`, have that end."""

    node_id: NodeId
    wanted: bool


@dataclass(frozen=True, slots=True)
class RemoveNode:
    """Forget a node."""

    node_id: NodeId


@dataclass(frozen=True, slots=True)
class AllocateProducerIds:
    """Grant a block of producer ids."""


@dataclass(frozen=True, slots=True)
class ChangeGroups:
    """Changes of groups, told by their coordinator under a leader epoch."""

    leader_epoch: LeaderEpoch
    changes: GroupChanges


@dataclass(frozen=True, slots=True)
class AlterPartitions:
    """ISR changes proposed by leaders on the asking node."""

    proposals: tuple[IsrProposal, ...]


NodeRequest = (
    CreateTopics
    | CreateInternalTopic
    | DeleteTopics
    | CreatePartitions
    | AlterTopicConfigs
    | AlterReplication
    | Reassign
    | DrainNode
    | RemoveNode
    | AllocateProducerIds
    | ChangeGroups
    | AlterPartitions
)


@dataclass(frozen=True, slots=True)
class TopicsReply:
    """To requests about topics: one outcome a topic, in the request's order."""

    outcomes: tuple[TopicOutcome, ...]


@dataclass(frozen=True, slots=True)
class PartitionsReply:
    """To `AlterPartitions`: one outcome a proposal, in order."""

    outcomes: tuple[IsrOutcome, ...]


@dataclass(frozen=True, slots=True)
class ReassignReply:
    """To `Reassign`: why each was refused, or None, in order."""

    outcomes: tuple[BrokerError | None, ...]


NodeReply = (
    TopicsReply
    | ProducerIdBlock
    | GroupDecision
    | PartitionsReply
    | ReassignReply
    | Draining
    | Removed
)


@dataclass(frozen=True, slots=True)
class Submission:
    """A request of one incarnation of a node; a retry repeats its sequence."""

    node_id: NodeId
    incarnation: Incarnation
    sequence: int
    request: NodeRequest


@dataclass(frozen=True, slots=True)
class Answer:
    """An encoded reply, without the version that holds what it says."""

    encoded: bytes


Request = (
    FinishElections
    | PreferLeaders
    | Rebalance
    | RegisterNode
    | FenceNode
    | UnfenceNode
    | RetireNode
    | ReportStorage
    | Submission
)
Reply = Registration | Answer | None
EncodeReply = Callable[[NodeRequest, NodeReply], bytes]


def decide(draft: Draft, request: Request, chance: Random, encode: EncodeReply) -> Reply:
    """Decide one request on a draft.

    Args:
        draft: Gets the records.
        request: What to decide.
        chance: Topic ids come from here, and the choice between equal nodes.
        encode: Makes the bytes of an answer to a submission.

    Raises:
        BrokerError: The request as a whole is refused; nothing was recorded.
    """
    match request:
        case FinishElections():
            elections.finish_elections(draft)
        case PreferLeaders():
            elections.prefer_leaders(draft, request.nodes, request.count_max)
        case Rebalance():
            rebalance(draft, request)
        case RegisterNode():
            return nodes.register(draft, request)
        case FenceNode():
            nodes.fence(draft, request)
        case UnfenceNode():
            nodes.unfence(draft, request)
        case RetireNode():
            nodes.retire_node(draft, request)
        case ReportStorage():
            nodes.report_storage(draft, request)
        case Submission():
            return _decide_once(draft, request, chance, encode)
        case _:
            assert_never(request)
    return None


def _decide_once(
    draft: Draft, submission: Submission, chance: Random, encode: EncodeReply
) -> Answer:
    node_id, incarnation = submission.node_id, submission.incarnation
    nodes.check_incarnation(draft.image, node_id, incarnation)
    known = draft.image.answers.find(node_id, submission.sequence)
    if known is not None:
        return Answer(known.answer)
    recorded = draft.record_count
    reply = _decide_for_node(draft, node_id, submission.request, chance)
    answer = encode(submission.request, reply)
    if draft.record_count > recorded:
        draft.record(RequestAnswered(node_id, incarnation, submission.sequence, answer))
    return Answer(answer)


def _decide_for_node(  # noqa: C901, PLR0912 - one case a request
    draft: Draft, node_id: NodeId, request: NodeRequest, chance: Random
) -> NodeReply:
    _check_size(request)
    match request:
        case CreateTopics():
            return TopicsReply(
                topics.create_topics(
                    draft, request.topics, chance, validate_only=request.validate_only
                )
            )
        case CreateInternalTopic():
            return TopicsReply((topics.create_internal_topic(draft, request.name, chance),))
        case DeleteTopics():
            return TopicsReply(topics.delete_topics(draft, request.topics))
        case CreatePartitions():
            return TopicsReply(
                topics.create_partitions(
                    draft, request.topics, chance, validate_only=request.validate_only
                )
            )
        case AlterTopicConfigs():
            return TopicsReply(
                topics.alter_configs(draft, request.changes, validate_only=request.validate_only)
            )
        case AlterReplication():
            return TopicsReply(
                replicas.alter_replication(
                    draft, request.topics, chance, validate_only=request.validate_only
                )
            )
        case Reassign():
            return ReassignReply(replicas.reassign(draft, request.partitions))
        case DrainNode():
            return replicas.drain(draft, request.node_id, wanted=request.wanted)
        case RemoveNode():
            return replicas.remove(draft, request.node_id)
        case AllocateProducerIds():
            return producer_ids.allocate(draft)
        case ChangeGroups():
            return change_groups(draft, node_id, request.leader_epoch, request.changes)
        case AlterPartitions():
            return PartitionsReply(partitions.propose_isr(draft, node_id, request.proposals))
        case _:
            assert_never(request)


def _check_size(request: NodeRequest) -> None:
    match request:
        case CreateTopics() | DeleteTopics() | CreatePartitions() | AlterReplication():
            field, count, limit = "topics", len(request.topics), TOPICS_MAX
        case AlterTopicConfigs():
            field, count, limit = "topics", len(request.changes), TOPICS_MAX
        case ChangeGroups():
            field, count, limit = "changes", len(request.changes.changes), CHANGES_MAX
        case AlterPartitions():
            field, count, limit = "partitions", len(request.proposals), CHANGES_MAX
        case Reassign():
            field, count, limit = "partitions", len(request.partitions), CHANGES_MAX
        case CreateInternalTopic() | AllocateProducerIds() | DrainNode() | RemoveNode():
            return
        case _:
            assert_never(request)
    if count > limit:
        raise InvalidRequestError(
            f"{count} {field} in one request; at most {limit} are allowed: send several",
            field=field,
            value=count,
            limit=limit,
        )
