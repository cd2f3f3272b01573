"""The other nodes as this one dials them for single questions.

Invariants: one channel to each, to the address that the image has; the one before stays open for
whoever still awaits an answer, since closing it would look like a cancellation to them.
"""

from collections.abc import Callable

import grpc

from odradek.protocol.types import NodeId
from odradek.rpc.channels import open_channel
from odradek.v1 import replica_pb2_grpc


class Peers:
    """Channels to other nodes; close them at the end.

    Args:
        address: Returns a node's `host:port`, or None while it is unknown.
    """

    def __init__(self, address: Callable[[NodeId], str | None]) -> None:
        self._address = address
        self._channels: dict[NodeId, tuple[str, grpc.aio.Channel]] = {}
        self._former: dict[NodeId, grpc.aio.Channel] = {}

    async def close(self) -> None:
        """Close every channel."""
        present = (channel for _, channel in self._channels.values())
        for channel in (*self._former.values(), *present):
            await channel.close()

    async def stub(self, node_id: NodeId) -> "replica_pb2_grpc.ReplicaServiceAsyncStub | None":
        """Return how to call a node; None while nobody knows where it is."""
        address = self._address(node_id)
        known = self._channels.get(node_id)
        if known is not None and known[0] != address:
            del self._channels[node_id]
            former = self._former.get(node_id)
            self._former[node_id] = known[1]
            if former is not None:
                await former.close()
            known = None
        if address is None:
            return None
        if known is None:
            known = self._channels.setdefault(node_id, (address, open_channel(address)))
        return replica_pb2_grpc.ReplicaServiceStub(known[1])
