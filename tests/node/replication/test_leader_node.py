"""How soon a follower's node finds a leader's node again, in virtual time and without a network."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from odradek.node.replication import leader_node
from odradek.node.replication.leader_node import LeaderNode
from odradek.node.replication.replicas import Replicas
from odradek.protocol.types import NodeId, PartitionUid
from odradek.v1 import replica_pb2 as pb
from tests.virtual_time import run

_BACKOFF_S = 1.0
_REDIAL_S = 0.25


class Channel:
    """Both streams of one; it dials by itself only so long after a failure."""

    def __init__(self, link: "Link") -> None:
        self._link = link
        self._dials_at_s = 0.0

    def stream_stream(self, *_: Any, **__: Any) -> Any:
        return lambda: self

    async def write(self, _: pb.ReplicateRequest) -> None:
        now_s = asyncio.get_running_loop().time()
        if self._link.cut.is_set() or now_s < self._dials_at_s:
            self._dials_at_s = max(self._dials_at_s, now_s + _BACKOFF_S)
            raise asyncio.InvalidStateError

    async def listen(self, _: Any) -> None:
        await self._link.cut.wait()

    def cancel(self) -> None:
        pass

    async def close(self) -> None:
        pass


class Link:
    """The network to the leader's node, and the one replica that follows it."""

    uid = PartitionUid(7)

    def __init__(self) -> None:
        self.cut = asyncio.Event()
        self.connected = asyncio.Event()
        self.following = SimpleNamespace(
            on_connected=self.connected.set, on_disconnected=self.connected.clear
        )

    def open_channel(self, *_: Any, **__: Any) -> Channel:
        return Channel(self)


def test_a_follower_is_back_a_quarter_of_a_second_after_its_leader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        link = Link()
        monkeypatch.setattr(leader_node, "open_channel", link.open_channel)
        leader = LeaderNode(
            NodeId(2), cast("Replicas", None), lambda: "h:1", lambda _: pb.ReplicateRequest()
        )
        leader.follow(cast("Any", link))
        following = asyncio.create_task(leader.run())
        for outage_s in range(1, 30):
            await link.connected.wait()
            link.cut.set()
            await asyncio.sleep(outage_s)
            assert not link.connected.is_set()
            link.cut.clear()
            async with asyncio.timeout(_REDIAL_S):
                await link.connected.wait()
        following.cancel()
        await asyncio.wait([following])

    run(scenario())
