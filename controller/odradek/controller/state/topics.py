"""Creating, growing, configuring and deleting topics. Pure.

Problem: one request names many topics, and each must succeed or fail on its own. Idea: each topic
is checked completely, then recorded as one record, so that it exists with all its partitions or not
at all; the draft shows it to the next one.

Invariants: topic ids are random and never reused; internal topics are made only on demand of nodes
and never changed by people; what `validate_only` accepts would be accepted.

Source: Apache Kafka's ReplicationControlManager (createTopics, createPartitions, deleteTopic).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random

from odradek.controller.state.elections import settle
from odradek.controller.state.group_changes import adapt_groups
from odradek.controller.state.image import ClusterImage, Draft
from odradek.controller.state.placement import place, placeable
from odradek.controller.state.reassignment import target_of
from odradek.controller.state.records import (
    Partition,
    PartitionsAdded,
    Topic,
    TopicConfigChanged,
    TopicCreated,
    TopicDeleted,
    TopicSettings,
)
from odradek.controller.state.topic_settings import adapt_insync, check_insync, settings_of
from odradek.protocol.errors import (
    BrokerError,
    InconsistentTopicIdError,
    InvalidPartitionsError,
    InvalidRequestError,
    InvalidTopicError,
    TopicAlreadyExistsError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)
from odradek.protocol.names import (
    INTERNAL_TOPICS,
    check_topic_name,
    near_names,
)
from odradek.protocol.topic_config import check_settings
from odradek.protocol.types import NodeId, PartitionUid, TopicId, TopicName

PARTITIONS_MAX = 10_000
"""Of one topic, and of all topics in one request."""
PARTITIONS_DEFAULT = 6
REPLICATION_DEFAULT = 3
"""As far as there are as many nodes."""
INTERNAL_PARTITIONS = 16
INTERNAL_CONFIG: TopicSettings = (("cleanup.policy", "compact"),)
_TOPIC_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class TopicRef:
    """A topic by id, or by name when the id is empty; both must fit when both are given."""

    name: str
    topic_id: bytes = b""


@dataclass(frozen=True, slots=True)
class NewTopic:
    """A topic to create.

    Attributes:
        partitions: None: the default.
        replication: None: the default.
    """

    name: str
    partitions: int | None = None
    replication: int | None = None
    config: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class NewPartitions:
    """How many partitions a topic is to have afterwards."""

    topic: TopicRef
    partitions: int


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """Settings of one topic to set, and to return to their defaults."""

    topic: TopicRef
    set: Mapping[str, str]
    unset: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TopicOutcome:
    """What became of one topic of a request."""

    name: str
    topic_id: bytes = b""
    error: BrokerError | None = None
    partitions: int = 0
    replication: int = 0


def create_topics(
    draft: Draft, topics: Iterable[NewTopic], chance: Random, *, validate_only: bool = False
) -> tuple[TopicOutcome, ...]:
    """Create topics; each succeeds or fails on its own."""
    # A check is a creation on a draft nobody keeps.
    target = Draft(draft.image) if validate_only else draft
    room = PARTITIONS_MAX
    outcomes = []
    for topic in topics:
        outcome = outcome_of(partial(_create, target, topic, chance, room), topic.name)
        room -= outcome.partitions
        outcomes.append(outcome)
    _adapt(target, outcomes)
    return tuple(outcomes)


def create_internal_topic(draft: Draft, name: str, chance: Random) -> TopicOutcome:
    """Create an internal topic unless it exists.

    Raises:
        InvalidTopicError: No internal topic has this name.
        BrokerError: It cannot be placed at the moment.
    """
    if name not in INTERNAL_TOPICS:
        raise InvalidTopicError(
            f"{name[:64]!r} is not an internal topic",
            field="name",
            value=name[:64],
            limit=", ".join(sorted(INTERNAL_TOPICS)),
        )
    known = draft.image.topic_named(name)
    if known is not None:
        return describe(draft.image, known)
    places = place(draft.image, INTERNAL_PARTITIONS, default_replication(draft.image), chance)
    return _record_topic(draft, TopicName(name), INTERNAL_CONFIG, places, chance)


def delete_topics(draft: Draft, topics: Iterable[TopicRef]) -> tuple[TopicOutcome, ...]:
    """Delete topics with their data; each succeeds or fails on its own."""
    outcomes = [outcome_of(partial(_delete, draft, ref), ref.name) for ref in topics]
    _adapt(draft, outcomes)
    return tuple(outcomes)


def create_partitions(
    draft: Draft, topics: Iterable[NewPartitions], chance: Random, *, validate_only: bool = False
) -> tuple[TopicOutcome, ...]:
    """Add partitions; each topic succeeds or fails on its own."""
    target = Draft(draft.image) if validate_only else draft
    outcomes = [
        outcome_of(partial(_grow, target, grow, chance), grow.topic.name) for grow in topics
    ]
    _adapt(target, outcomes)
    return tuple(outcomes)


def alter_configs(
    draft: Draft, changes: Iterable[ConfigChange], *, validate_only: bool = False
) -> tuple[TopicOutcome, ...]:
    """Change some settings of topics, leaving the others; each succeeds or fails on its own."""
    target = Draft(draft.image) if validate_only else draft
    return tuple(
        outcome_of(partial(_alter, target, change), change.topic.name) for change in changes
    )


def default_replication(image: ClusterImage) -> int:
    """Return how many replicas a topic gets that asks for no number."""
    return max(1, min(REPLICATION_DEFAULT, len(placeable(image))))


def replication_of(image: ClusterImage, topic: Topic) -> int:
    """Return how many replicas a topic's partitions have, without those on their way out."""
    first = image.partitions[topic.partitions[0]]
    return len(first.replicas) - len(first.removing)


def find_topic(image: ClusterImage, ref: TopicRef) -> Topic:
    """Return the topic a reference names.

    Raises:
        UnknownTopicIdError: No topic has this id.
        UnknownTopicOrPartitionError: No topic has this name; near ones are named.
        InconsistentTopicIdError: Name and id are of different topics: it was re-created.
    """
    if ref.topic_id:
        topic = image.topics.get(TopicId(ref.topic_id))
        if topic is None:
            raise UnknownTopicIdError(
                f"no topic has id {ref.topic_id[:_TOPIC_ID_BYTES].hex()}",
                field="topic_id",
                value=ref.topic_id[:_TOPIC_ID_BYTES].hex(),
            )
        if ref.name and ref.name != topic.name:
            raise InconsistentTopicIdError(
                f"id {ref.topic_id.hex()} belongs to topic {topic.name!r}, not {ref.name[:64]!r}",
                field="topic_id",
                value=ref.topic_id.hex(),
                limit=topic.name,
            )
        return topic
    topic = image.topic_named(ref.name)
    if topic is None:
        near = near_names(ref.name, image.topic_ids)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UnknownTopicOrPartitionError(
            f"there is no topic {ref.name[:64]!r}{hint}",
            field="topic",
            value=ref.name[:64],
            suggestions=near,
        )
    return topic


def outcome_of(decide: Callable[[], TopicOutcome], name: str) -> TopicOutcome:
    """Return what a decision about one topic gives, or why it was refused."""
    try:
        return decide()
    except BrokerError as error:
        return TopicOutcome(name, error=error)


def _adapt(draft: Draft, outcomes: list[TopicOutcome]) -> None:
    names = frozenset(TopicName(each.name) for each in outcomes if each.error is None)
    if names:
        adapt_groups(draft, names)


def _create(draft: Draft, new: NewTopic, chance: Random, room: int) -> TopicOutcome:
    name = check_public(check_topic_name(new.name, field="name"))
    if name in draft.image.topic_ids:
        raise TopicAlreadyExistsError(f"topic {name!r} exists", field="name", value=name)
    count = PARTITIONS_DEFAULT if new.partitions is None else new.partitions
    _check_count(count)
    if count > room:
        raise InvalidRequestError(
            f"one request creates at most {PARTITIONS_MAX} partitions; send several",
            field="partitions",
            value=count,
            limit=PARTITIONS_MAX,
        )
    config = settings_of(new.config or {})
    replication = new.replication
    if replication is None:
        replication = default_replication(draft.image)
    check_insync(config, replication)
    places = place(draft.image, count, replication, chance)
    return _record_topic(draft, name, config, places, chance)


def _record_topic(
    draft: Draft,
    name: TopicName,
    config: TopicSettings,
    places: list[tuple[NodeId, ...]],
    chance: Random,
) -> TopicOutcome:
    partitions = _partitions(draft.image, places)
    topic = Topic(
        topic_id=_fresh_topic_id(draft.image, chance),
        name=name,
        config=config,
        partitions=tuple(partition.uid for partition in partitions),
    )
    draft.record(TopicCreated(topic, partitions))
    _settle(draft, partitions)
    return describe(draft.image, topic)


def _settle(draft: Draft, partitions: Iterable[Partition]) -> None:
    """Let new partitions have no more of nodes that are about to stop than older ones have."""
    if any(node.stopping for node in draft.image.nodes.values()):
        fresh = {partition.uid for partition in partitions}
        settle(draft, lambda partition: partition.uid in fresh)


def _grow(draft: Draft, grow: NewPartitions, chance: Random) -> TopicOutcome:
    image = draft.image
    topic = find_topic(image, grow.topic)
    check_public(topic.name)
    _check_count(grow.partitions)
    more = grow.partitions - len(topic.partitions)
    if more <= 0:
        raise InvalidPartitionsError(
            f"topic {topic.name!r} has {len(topic.partitions)} partitions; only more can be had,"
            f" not {grow.partitions}",
            field="partitions",
            value=grow.partitions,
            limit=len(topic.partitions),
        )
    present = list(image.partitions_of(topic))
    places = place(image, more, replication_of(image, topic), chance, beside=present)
    partitions = _partitions(image, places)
    draft.record(PartitionsAdded(topic.topic_id, partitions))
    _settle(draft, partitions)
    return describe(image, image.topics[topic.topic_id])


def _delete(draft: Draft, ref: TopicRef) -> TopicOutcome:
    topic = find_topic(draft.image, ref)
    check_public(topic.name)
    draft.record(TopicDeleted(topic.topic_id))
    return TopicOutcome(topic.name, topic.topic_id)


def _alter(draft: Draft, change: ConfigChange) -> TopicOutcome:
    topic = find_topic(draft.image, change.topic)
    check_public(topic.name)
    check_settings(change.set, unset=change.unset)
    for key in change.unset:
        if key in change.set:
            raise InvalidRequestError(
                f"{key} is both set and unset", field=f"unset.{key}", value=change.set[key][:64]
            )
    kept = {key: value for key, value in topic.config if key not in change.unset}
    config = settings_of(kept | dict(change.set))
    if config != topic.config:
        partitions = draft.image.partitions_of(topic)
        check_insync(config, min(len(target_of(each)) for each in partitions))
        adapt_insync(draft, topic, config)
        draft.record(TopicConfigChanged(topic.topic_id, config))
    return describe(draft.image, topic)


def _partitions(image: ClusterImage, places: list[tuple[NodeId, ...]]) -> tuple[Partition, ...]:
    first = image.next_partition_uid
    return tuple(
        Partition(uid=PartitionUid(uid), leader=replicas[0], replicas=replicas, isr=replicas)
        for uid, replicas in enumerate(places, first)
    )


def _fresh_topic_id(image: ClusterImage, chance: Random) -> TopicId:
    while True:
        topic_id = TopicId(chance.randbytes(_TOPIC_ID_BYTES))
        if topic_id not in image.topics:
            return topic_id


def check_public(name: TopicName) -> TopicName:
    """Refuse to let people change what Odradek keeps for itself."""
    if name in INTERNAL_TOPICS:
        raise InvalidTopicError(
            f"topic {name!r} is internal: Odradek keeps it for itself", field="topic", value=name
        )
    return name


def _check_count(count: int) -> None:
    if not 1 <= count <= PARTITIONS_MAX:
        raise InvalidPartitionsError(
            f"{count} partitions are not allowed: use 1 to {PARTITIONS_MAX}",
            field="partitions",
            value=count,
            limit=f"1..{PARTITIONS_MAX}",
        )


def describe(image: ClusterImage, topic: Topic) -> TopicOutcome:
    """Return what there is of a topic."""
    topic = image.topics[topic.topic_id]
    return TopicOutcome(
        topic.name,
        topic.topic_id,
        partitions=len(topic.partitions),
        replication=replication_of(image, topic),
    )
