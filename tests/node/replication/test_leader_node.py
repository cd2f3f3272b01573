"""How a follower's node dials those of its leaders, in virtual time and without a network."""

import asyncio
from collections import defaultdict
from types import SimpleNamespace
from typing import Any, cast

import pytest

from odradek.node.cluster.image import ImageUpdate, NodeState
from odradek.node.cluster.view import ClusterView
from odradek.node.replication import leader_node
from odradek.node.replication.leader_node import LeaderNode
from odradek.node.replication.node_links import NodeLinks
from odradek.node.replication.replicas import Replicas
from odradek.protocol.types import Incarnation, NodeId, PartitionUid
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
        leader = LeaderNode(NodeId(2), cast("Replicas", None), lambda: "h:1", pb.ReplicateOpen)
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


class OpenedChannel:
    """Both streams to one leader's node, which admits them as it would and then says nothing."""

    def __init__(self, leader: NodeLinks, streams: dict[Any, list[int]]) -> None:
        self._leader = leader
        self._streams = streams

    def stream_stream(self, *_: Any, **__: Any) -> Any:
        return lambda: self

    async def write(self, data: bytes) -> None:
        await asyncio.sleep(0)  # the other leaders are dialled meanwhile
        opened = pb.ReplicateRequest.FromString(data).open
        self._streams[self._leader.admit(opened)].append(opened.stream)

    async def listen(self, _: Any) -> None:
        await asyncio.Event().wait()

    def cancel(self) -> None:
        pass

    async def close(self) -> None:
        pass


def test_leaders_dialled_at_once_are_each_opened_one_pair_of_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stream with a later number than the other of its pair would end it."""

    def links(node_id: int, view: ClusterView) -> NodeLinks:
        made = NodeLinks(NodeId(node_id), lambda: Incarnation(1), view, cast("Any", None))
        made.serve(cast("Replicas", SimpleNamespace()), lambda _: None)
        return made

    async def scenario() -> None:
        streams: dict[Any, list[int]] = defaultdict(list)
        leaders = {f"h:{node_id}": links(node_id, ClusterView()) for node_id in (1, 2, 3)}
        monkeypatch.setattr(
            leader_node,
            "open_channel",
            lambda address, **_: OpenedChannel(leaders[address], streams),
        )
        view = ClusterView()
        nodes = tuple(
            NodeState(node_id=NodeId(each), host="h", port=each, incarnation=Incarnation(1))
            for each in (1, 2, 3)
        )
        view.publish(ImageUpdate(version=1, nodes=nodes))
        me = links(9, view)
        connected = [asyncio.Event() for _ in leaders]
        for uid, (leader_id, event) in enumerate(zip((1, 2, 3), connected, strict=True)):
            following = SimpleNamespace(on_connected=event.set, on_disconnected=event.clear)
            partition = SimpleNamespace(leader_id=leader_id)
            replica = SimpleNamespace(uid=uid, partition=partition, following=following)
            me.follow(cast("Any", replica))
        running = asyncio.create_task(me.run())
        await asyncio.wait_for(asyncio.gather(*(event.wait() for event in connected)), 60)
        running.cancel()
        await asyncio.wait([running])
        pair = [pb.REPLICATE_STREAM_LIVE, pb.REPLICATE_STREAM_CATCH_UP]
        assert list(streams.values()) == [pair] * 3

    run(scenario())
