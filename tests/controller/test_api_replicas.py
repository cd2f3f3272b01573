"""What nodes ask about replicas on behalf of people, over real gRPC."""

from odradek.protocol.errors import (
    InvalidReplicaAssignmentError,
    InvalidReplicationFactorError,
    error_from_proto,
)
from odradek.protocol.types import NodeId
from odradek.v1 import admin_pb2, controller_pb2
from tests.controller.memory_log import eventually
from tests.controller.served import world


async def test_replicas_are_moved_and_nodes_emptied_and_forgotten() -> None:
    async with world() as w:
        await w.lead()
        node, other = w.node(1), w.node(2)
        await node.start()
        await node.create("t", 2)
        await other.start()
        grow = admin_pb2.TopicReplication(topic=admin_pb2.TopicRef(name="t"), replication_factor=2)
        answer = await node.submit(
            controller_pb2.SubmitRequest(
                alter_replication=admin_pb2.AlterReplicationRequest(topics=[grow])
            )
        )
        assert answer.alter_replication.version == w.committed.image.version
        assert answer.alter_replication.topics[0].replication_factor == 2
        cancel = admin_pb2.PartitionReassignment(
            topic=admin_pb2.TopicRef(name="t"), partition=1, cancel=True
        )
        impossible = admin_pb2.PartitionReassignment(
            topic=admin_pb2.TopicRef(name="t"), partition=0, replicas=[7]
        )
        answer = await node.submit(
            controller_pb2.SubmitRequest(
                alter_partition_reassignments=admin_pb2.AlterPartitionReassignmentsRequest(
                    partitions=[cancel, impossible]
                )
            )
        )
        done, refused = answer.alter_partition_reassignments.partitions
        assert not done.HasField("error")
        assert isinstance(error_from_proto(refused.error), InvalidReplicaAssignmentError)
        drain = controller_pb2.SubmitRequest(drain_node=admin_pb2.DrainNodeRequest(node_id=2))
        answer = await node.submit(drain)
        assert isinstance(error_from_proto(answer.error), InvalidReplicationFactorError)
        cancel.partition = 0
        await node.submit(
            controller_pb2.SubmitRequest(
                alter_partition_reassignments=admin_pb2.AlterPartitionReassignmentsRequest(
                    partitions=[cancel]
                )
            )
        )
        drain.sequence = 0
        answer = await node.submit(drain)
        assert (answer.drain_node.replica_count, answer.drain_node.version) == (0, answer.version)
        remove = controller_pb2.SubmitRequest(remove_node=admin_pb2.RemoveNodeRequest(node_id=2))
        answer = await node.submit(remove)
        assert "stop it first" in answer.error.message
        await other.channel.close()
        await eventually(lambda: w.committed.image.nodes[NodeId(2)].fenced)
        remove.sequence = 0
        answer = await node.submit(remove)
        assert answer.WhichOneof("result") == "remove_node"
        assert list(w.committed.image.nodes) == [1]
