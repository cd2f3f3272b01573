"""A node that moves to another address while it is being asked."""

import asyncio
from typing import Any

import grpc

from odradek.node.api.replica import SERVICE_NAME
from odradek.node.replication.peers import Peers
from odradek.protocol.types import NodeId
from odradek.rpc.server import Server
from odradek.v1 import replica_pb2 as pb

OTHER = NodeId(2)


class _Slow:
    def __init__(self) -> None:
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def confirm_leadership(
        self, request: pb.ConfirmLeadershipRequest, context: Any
    ) -> pb.ConfirmLeadershipResponse:
        self.asked.set()
        await self.may_answer.wait()
        return pb.ConfirmLeadershipResponse(superseded=[7])


async def test_whoever_awaits_an_answer_gets_it() -> None:
    """Closing its channel would cancel it, and with it whoever asked, for good."""
    service = _Slow()
    server = Server("127.0.0.1:0")
    method = grpc.unary_unary_rpc_method_handler(
        service.confirm_leadership,
        request_deserializer=pb.ConfirmLeadershipRequest.FromString,
        response_serializer=pb.ConfirmLeadershipResponse.SerializeToString,
    )
    methods = {"ConfirmLeadership": method}
    handler = grpc.method_handlers_generic_handler(SERVICE_NAME, methods)
    server.grpc.add_generic_rpc_handlers((handler,))
    address = f"127.0.0.1:{await server.start()}"
    peers = Peers(lambda _: address)
    stub = await peers.stub(OTHER)
    assert stub is not None
    answer = asyncio.ensure_future(stub.ConfirmLeadership(pb.ConfirmLeadershipRequest()))
    await service.asked.wait()
    address = "127.0.0.1:1"
    assert await peers.stub(OTHER) is not None
    service.may_answer.set()
    assert list((await answer).superseded) == [7]
    await peers.close()
    await server.drain(0)
