"""Administration: topics, settings, the cluster; see `group_admin` and `replica_admin` too.

Every call goes to any live node and is retried elsewhere while that can help. Changes return once
this client's own metadata has them, so that the next call sees them.

Invariant: a change whose outcome was lost on the way is recognised when the retry finds it done;
nothing is taken for one that was so before.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from odradek.client.administration.admin_calls import AdminCalls, int32, raise_first
from odradek.client.administration.descriptions import (
    ClusterDescription,
    ConfigEntry,
    ControllerDescription,
    NewTopic,
    NodeDescription,
    TopicDescription,
    TopicSummary,
)
from odradek.client.administration.group_admin import GroupAdmin
from odradek.client.administration.replica_admin import ReplicaAdmin, describe_partition
from odradek.client.cluster.scope import Scope
from odradek.protocol.errors import (
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    error_from_proto,
)
from odradek.protocol.names import check_topic_name
from odradek.v1 import admin_pb2, metadata_pb2

R = TypeVar("R")


class Admin(GroupAdmin, ReplicaAdmin):
    """The admin face of a client: `client.admin`."""

    def __init__(self, scope: Scope) -> None:
        calls = AdminCalls(scope)
        super().__init__(scope, calls)

    # ------------------------------------------------------------------ topics

    async def create_topic(
        self,
        name: str,
        *,
        partitions: int | None = None,
        replication: int | None = None,
        config: Mapping[str, str] | None = None,
        exist_ok: bool = False,
        validate_only: bool = False,
    ) -> TopicSummary:
        """Create one topic and return once this client can use it.

        Args:
            name: 1 to 249 of [a-zA-Z0-9._-].
            partitions: How many; None: the cluster's default (6).
            replication: How many replicas each; None: the default, 3 where there are 3 nodes.
            config: Settings that differ from the defaults, such as `{"flush": "os"}`.
            exist_ok: Return the topic of this name, as it is, if there is one.
            validate_only: Check and change nothing.

        Raises:
            TopicAlreadyExistsError: The name is taken, and not `exist_ok`.
            InvalidTopicError, InvalidPartitionsError, InvalidReplicationFactorError,
                InvalidConfigError: Name field, value and limit.
        """
        topic = NewTopic(name=name, partitions=partitions, replication=replication, config=config)
        try:
            return (await self.create_topics([topic], validate_only=validate_only))[0]
        except TopicAlreadyExistsError:
            if not exist_ok:
                raise
        return _summary(await self.describe_topic(name))

    async def create_topics(
        self, topics: Iterable[NewTopic], *, validate_only: bool = False
    ) -> list[TopicSummary]:
        """Create topics, each by itself; errors as in `create_topic`, the first one met is raised.

        The topics beside a refused one are created all the same.
        """
        wanted = list(topics)
        for topic in wanted:
            check_topic_name(topic.name, field="name")
        request = admin_pb2.CreateTopicsRequest(
            topics=[_new_topic(topic) for topic in wanted], validate_only=validate_only
        )
        before = self._scope.metadata.image.topics
        answer, repeated = await self._calls.any_node(
            lambda node: node.admin.CreateTopics, request, what="create topics"
        )
        if not validate_only:
            await self._calls.see(answer.version)
        created = []
        errors = []
        for topic, result in zip(wanted, answer.topics, strict=True):
            error = error_from_proto(result.error) if result.HasField("error") else None
            was_there = topic.name in before
            if repeated and not was_there and isinstance(error, TopicAlreadyExistsError):
                made = await self._made_earlier(topic)
                if made is not None:
                    created.append(made)
                    continue
            if error is not None:
                errors.append(error)
                continue
            created.append(
                TopicSummary(
                    result.name,
                    result.topic_id.hex(),
                    result.partitions,
                    result.replication_factor,
                )
            )
        raise_first(errors)
        return created

    async def delete_topic(self, name: str) -> None:
        """Delete a topic with its data.

        Raises:
            UnknownTopicOrPartitionError: With near names.
        """
        request = admin_pb2.DeleteTopicsRequest(topics=[admin_pb2.TopicRef(name=name)])
        was_there = name in self._scope.metadata.image.topics
        answer, repeated = await self._calls.any_node(
            lambda node: node.admin.DeleteTopics, request, what="delete a topic"
        )
        for result in answer.topics:
            error = error_from_proto(result.error) if result.HasField("error") else None
            if repeated and was_there and isinstance(error, UnknownTopicOrPartitionError):
                continue
            raise_first([error] if error else [])
        await self._calls.see(answer.version)

    async def list_topics(self, *, include_internal: bool = False) -> list[TopicSummary]:
        """Return every topic, by name."""
        found = await self._describe(
            metadata_pb2.GetMetadataRequest(all_topics=True, include_internal=include_internal)
        )
        return [
            TopicSummary(
                each.name, each.topic_id, len(each.partitions), each.replication, each.internal
            )
            for each in found
        ]

    async def describe_topic(self, name: str) -> TopicDescription:
        """Return one topic with its partitions.

        Raises:
            UnknownTopicOrPartitionError: With near names.
        """
        return (await self.describe_topics([name]))[0]

    async def describe_topics(self, names: Iterable[str]) -> list[TopicDescription]:
        """Return some topics in the order given.

        Raises:
            UnknownTopicOrPartitionError: With near names.
        """
        wanted = list(names)
        found = {
            each.name: each
            for each in await self._describe(metadata_pb2.GetMetadataRequest(topics=wanted))
        }
        return [found[name] for name in wanted]

    async def create_partitions(
        self, topic: str, total: int, *, validate_only: bool = False
    ) -> TopicSummary:
        """Add partitions to a topic; keys are spread anew, so their order is kept from now on only.

        Args:
            topic: Which.
            total: The count afterwards.
            validate_only: Check and change nothing.

        Raises:
            InvalidPartitionsError: Not more than there are, or too many.
            UnknownTopicOrPartitionError: With near names.
        """
        new = admin_pb2.NewPartitions(
            topic=admin_pb2.TopicRef(name=topic),
            partitions=int32(total, field="total", refusal=InvalidPartitionsError),
        )
        request = admin_pb2.CreatePartitionsRequest(topics=[new], validate_only=validate_only)
        answer, repeated = await self._calls.any_node(
            lambda node: node.admin.CreatePartitions, request, what="create partitions"
        )
        if not validate_only:
            await self._calls.see(answer.version)
        (result,) = answer.topics
        error = error_from_proto(result.error) if result.HasField("error") else None
        if repeated and isinstance(error, InvalidPartitionsError):
            now = await self.describe_topic(topic)
            if len(now.partitions) == total:
                return TopicSummary(topic, now.topic_id, total, now.replication)
        raise_first([error] if error else [])
        return TopicSummary(
            result.name, result.topic_id.hex(), result.partitions, result.replication_factor
        )

    # ------------------------------------------------------------------ settings

    async def alter_config(
        self,
        topic: str,
        changes: Mapping[str, str | None],
        *,
        validate_only: bool = False,
    ) -> None:
        """Change some settings of a topic, leaving the others.

        Args:
            topic: Which.
            changes: Key to value; None returns a setting to its default.
            validate_only: Check and change nothing.

        Raises:
            InvalidConfigError: Names key, value and limit; nothing was changed.
            UnknownTopicOrPartitionError: With near names.
        """
        request = admin_pb2.AlterTopicConfigsRequest(
            topics=[
                admin_pb2.TopicConfigChange(
                    topic=admin_pb2.TopicRef(name=topic),
                    set={key: value for key, value in changes.items() if value is not None},
                    unset=[key for key, value in changes.items() if value is None],
                )
            ],
            validate_only=validate_only,
        )
        answer, _ = await self._calls.any_node(
            lambda node: node.admin.AlterTopicConfigs, request, what="alter settings"
        )
        raise_first(
            error_from_proto(each.error) for each in answer.topics if each.HasField("error")
        )
        if not validate_only:
            await self._calls.see(answer.version)

    async def describe_config(self, topic: str) -> list[ConfigEntry]:
        """Return every setting of a topic, defaults included.

        Raises:
            UnknownTopicOrPartitionError: With near names.
        """
        request = admin_pb2.DescribeTopicConfigsRequest(topics=[admin_pb2.TopicRef(name=topic)])
        answer, _ = await self._calls.any_node(
            lambda node: node.admin.DescribeTopicConfigs, request, what="describe settings"
        )
        (result,) = answer.topics
        raise_first([error_from_proto(result.error)] if result.HasField("error") else [])
        return [
            ConfigEntry(each.key, each.value, each.is_default, each.documentation)
            for each in result.entries
        ]

    # ------------------------------------------------------------------ cluster

    async def describe_cluster(self) -> ClusterDescription:
        """Return nodes, controllers and how partitions fare."""
        answer, _ = await self._calls.any_node(
            lambda node: node.admin.DescribeCluster,
            admin_pb2.DescribeClusterRequest(),
            what="describe the cluster",
        )
        return ClusterDescription(
            cluster_id=answer.cluster_id,
            version=answer.version,
            nodes=tuple(_node(each) for each in answer.nodes),
            controllers=tuple(
                ControllerDescription(
                    None if each.controller_id < 0 else each.controller_id,
                    each.address,
                    each.active,
                    each.reachable,
                )
                for each in answer.controllers
            ),
            topic_count=answer.topic_count,
            partition_count=answer.partition_count,
            leaderless_count=answer.leaderless_count,
            under_replicated_count=answer.under_replicated_count,
            moving_count=answer.moving_count,
        )

    # ------------------------------------------------------------------ inside

    async def _made_earlier(self, wanted: NewTopic) -> TopicSummary | None:
        """Return the topic if it looks like the work of our own first attempt."""
        found = await self.describe_topic(wanted.name)
        if wanted.partitions not in {None, len(found.partitions)}:
            return None
        return _summary(found)

    async def _describe(self, request: metadata_pb2.GetMetadataRequest) -> list[TopicDescription]:
        request.min_version = max(0, self._scope.metadata.image.version)
        answer, _ = await self._calls.any_node(
            lambda node: node.metadata.GetMetadata, request, what="describe topics"
        )
        raise_first(
            error_from_proto(each.error) for each in answer.topics if each.HasField("error")
        )
        return sorted((_topic(each) for each in answer.topics), key=lambda each: each.name)


def _summary(topic: TopicDescription) -> TopicSummary:
    return TopicSummary(
        topic.name, topic.topic_id, len(topic.partitions), topic.replication, topic.internal
    )


def _new_topic(topic: NewTopic) -> admin_pb2.NewTopic:
    return admin_pb2.NewTopic(
        name=topic.name,
        partitions=int32(topic.partitions or 0, field="partitions", refusal=InvalidPartitionsError),
        partitions_set=topic.partitions is not None,
        replication_factor=int32(
            topic.replication or 0, field="replication", refusal=InvalidReplicationFactorError
        ),
        replication_factor_set=topic.replication is not None,
        config=dict(topic.config or {}),
    )


def _topic(topic: metadata_pb2.TopicMetadata) -> TopicDescription:
    return TopicDescription(
        topic.name,
        topic.topic_id.hex(),
        topic.internal,
        tuple(map(describe_partition, topic.partitions)),
        dict(topic.config),
    )


def _node(status: admin_pb2.NodeStatus) -> NodeDescription:
    return NodeDescription(
        status.node.node_id,
        status.node.host,
        status.node.port,
        status.node.rack,
        status.node.fenced,
        status.node.draining,
        status.leader_count,
        status.replica_count,
        status.receiving_count,
        status.leaving_count,
        status.node.stopping,
        status.node.storage_full,
        status.node.store_set_aside,
    )
