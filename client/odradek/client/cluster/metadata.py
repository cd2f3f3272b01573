"""The client's picture of the cluster, kept fresh by a watch on any live node.

Problem: producers and consumers must know leaders at every record, without asking, and learn of a
failover at once. Idea: one `WatchMetadata` stream feeds an immutable `ClusterImage`; readers take
`metadata.image` and may wait for the next one. When the stream breaks, or its node stops answering,
the next node takes over. So it does when the node hears no controller while others do: who is cut
off answers as ever, and never says that others lead now.

Invariants: the version of `image` never falls within one cluster (a node that lags is listened to,
but published only once it has caught up); leader epochs never fall (see `image`).
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, TypeAlias

import grpc

from odradek.client.cluster.connections import (
    Connection,
    Connections,
    unary,
)
from odradek.client.cluster.image import EMPTY, ClusterImage, NodeInfo, TopicInfo
from odradek.client.cluster.image_update import apply_update
from odradek.client.errors import ClientClosedError, NodesUnreachableError
from odradek.protocol.errors import (
    BrokerError,
    OdradekError,
    RequestTimedOutError,
    UnknownTopicOrPartitionError,
)
from odradek.protocol.names import check_topic_name, near_names
from odradek.protocol.types import LeaderEpoch, NodeId, PartitionIndex, TopicId, TopicName
from odradek.rpc.backoff import delays
from odradek.rpc.channels import ConnectionLostError, error_from_rpc
from odradek.v1 import metadata_pb2

_PROBE_INTERVAL_S: Final = 5.0
_PROBE_TIMEOUT_S: Final = 1.0
_FIRST_IMAGE_TIMEOUT_S: Final = 5.0
_ADVISERS_MAX: Final = 3

_Watch: TypeAlias = (
    "grpc.aio.UnaryStreamCall[metadata_pb2.WatchMetadataRequest,"
    " metadata_pb2.WatchMetadataResponse]"
)

_log = logging.getLogger(__name__)


class Metadata:
    """The cluster as this client knows it.

    Attributes:
        image: The present picture; immutable, replaced as a whole.
    """

    def __init__(
        self,
        connections: Connections,
        bootstrap: tuple[str, ...],
        *,
        request_timeout_s: float,
        chance: random.Random,
    ) -> None:
        self.image: ClusterImage = EMPTY
        self._connections = connections
        self._bootstrap = bootstrap
        self._request_timeout_s = request_timeout_s
        self._chance = chance
        self._changed = asyncio.Event()
        self._suspected = asyncio.Event()
        self._watched: str | None = None
        self._failures: dict[str, OdradekError] = {}
        self._is_closed = False

    # ------------------------------------------------------------------ what readers ask

    async def topic(self, name: str, *, timeout_s: float) -> TopicInfo:
        """Return a topic.

        Raises:
            UnknownTopicOrPartitionError: At once, with near names.
            InvalidTopicError: The name is illegal.
            NodesUnreachableError: No node answered in time.
            ClientClosedError: The client was closed meanwhile.
        """
        info = self.image.topics.get(TopicName(name))
        if info is not None:
            return info
        check_topic_name(name)
        await self.ready(timeout_s=timeout_s)
        info = self.image.topics.get(TopicName(name))
        if info is None and await self._another_node_knows(name):
            info = self.image.topics.get(TopicName(name))
        if info is None:
            raise self.unknown_topic(name)
        return info

    def unknown_topic(self, name: str) -> UnknownTopicOrPartitionError:
        """Return the error for a name this cluster does not have."""
        near = near_names(name, self.image.topics)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return UnknownTopicOrPartitionError(
            f"unknown topic {name!r}{hint}", field="topic", value=name, suggestions=near
        )

    async def ready(self, *, timeout_s: float) -> ClusterImage:
        """Wait until a watch stands and has delivered the image.

        Raises:
            NodesUnreachableError: No node answered in time; says what each one met.
        """
        await self._until(lambda: self._watched is not None, timeout_s, "no node answers")
        return self.image

    async def at_least(self, version: int, *, timeout_s: float) -> ClusterImage:
        """Wait for an image of this version or a later one: read your own writes.

        Raises:
            NodesUnreachableError: It did not come in time.
        """
        await self._until(
            lambda: self.image.version >= version,
            timeout_s,
            f"metadata stands at version {self.image.version}, {version} is awaited",
        )
        return self.image

    async def newer_than(
        self, known: ClusterImage, *, timeout_s: float | None = None
    ) -> ClusterImage:
        """Wait for another image than the given one.

        Returns:
            The newest; the given one when `timeout_s` passed without news.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self.image is known:
                    await self._changed.wait()
        except TimeoutError:
            return known
        return self.image

    def addresses(self) -> list[str]:
        """Return where to call any node: the watched one first, then the others in random order."""
        live = [node.address for node in self.image.nodes.values() if not node.fenced]
        others = [address for address in live if address != self._watched]
        self._chance.shuffle(others)
        first = [] if self._watched is None else [self._watched]
        known = {*first, *others}
        return [*first, *others, *(each for each in self._bootstrap if each not in known)]

    def node(self, node_id: int) -> NodeInfo | None:
        """Return a registered node."""
        return self.image.nodes.get(NodeId(node_id))

    # ------------------------------------------------------------------ what others report

    def hint_leader(self, topic_id: bytes, partition: int, leader_id: int, epoch: int) -> bool:
        """Take note of a leader named by a node; True when that was news."""
        hinted = self.image.with_leader(
            TopicId(topic_id), PartitionIndex(partition), NodeId(leader_id), LeaderEpoch(epoch)
        )
        if hinted is self.image:
            return False
        self._publish(hinted)
        return True

    def suspect(self) -> None:
        """Say that something does not answer: the watched node is probed now, not in a while."""
        self._suspected.set()

    def close(self) -> None:
        """Let nobody wait any more for what will not come."""
        self._is_closed = True
        self._announce()

    # ------------------------------------------------------------------ the watch

    async def run(self) -> None:
        """Watch until cancelled; the client's background owns this."""
        pauses = delays(self._chance)
        while True:
            for address in self._candidates():
                version = self.image.version
                try:
                    await self._watch(self._connections.to(address))
                except OdradekError as error:
                    self._failures[address] = error
                    _log.debug("watch of %s ended: %s", address, error)
                finally:
                    self._watched = None
                if self.image.version > version:
                    pauses = delays(self._chance)
            self._announce()
            await asyncio.sleep(next(pauses))

    def _every_address(self) -> set[str]:
        return {*self._bootstrap, *(node.address for node in self.image.nodes.values())}

    def _candidates(self) -> Iterable[str]:
        """Every address worth a try, read afresh: an image may arrive while we walk."""
        tried: set[str] = set()
        while True:
            address = next((each for each in self.addresses() if each not in tried), None)
            if address is None:
                return
            tried.add(address)
            yield address

    async def _watch(self, connection: Connection) -> None:
        await self._probe(connection)
        call = connection.metadata.WatchMetadata(metadata_pb2.WatchMetadataRequest())
        try:
            image = await self._first_image(call, connection.address)
            while True:
                image = self._offer(image, connection.address)
                await self._connections.retain(self._every_address())
                image = apply_update(image, await self._next_update(call, connection))
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        finally:
            call.cancel()

    async def _first_image(self, call: _Watch, address: str) -> ClusterImage:
        try:
            async with asyncio.timeout(_FIRST_IMAGE_TIMEOUT_S):
                update = await call.read()
        except TimeoutError:
            raise RequestTimedOutError(f"{address} sent no metadata") from None
        if not isinstance(update, metadata_pb2.WatchMetadataResponse):
            raise ConnectionLostError(f"{address} ended the metadata watch")
        image = apply_update(EMPTY, update)
        if not image.cluster_id:
            raise ConnectionLostError(f"{address} has not joined its cluster yet")
        return image

    async def _next_update(
        self, call: _Watch, connection: Connection
    ) -> metadata_pb2.WatchMetadataResponse:
        """Read on, and probe the node while it is silent: a paused process breaks no connection."""
        reading = asyncio.ensure_future(call.read())
        suspicion = asyncio.ensure_future(self._suspected.wait())
        try:
            while not reading.done():
                await asyncio.wait(
                    (reading, suspicion),
                    timeout=_PROBE_INTERVAL_S,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if reading.done():
                    break
                await self._probe(connection)
                if suspicion.done():
                    self._suspected.clear()
                    suspicion = asyncio.ensure_future(self._suspected.wait())
            update = reading.result()
        finally:
            suspicion.cancel()
            reading.cancel()
        if not isinstance(update, metadata_pb2.WatchMetadataResponse):
            raise ConnectionLostError(f"{connection.address} ended the metadata watch")
        return update

    async def _probe(self, connection: Connection) -> None:
        """Have the node show that it is there, and hears a controller if anybody does.

        Raises:
            OdradekError: Another one should be watched.
        """
        if await _hears_controller(connection):
            return
        others = [each for each in self.addresses() if each != connection.address]
        if await self._any_hears_controller(others[:_ADVISERS_MAX]):
            raise ConnectionLostError(f"{connection.address} hears no controller, others do")

    async def _any_hears_controller(self, addresses: Iterable[str]) -> bool:
        async def advises(address: str) -> bool:
            with suppress(OdradekError):
                return await _hears_controller(self._connections.to(address))
            return False

        asking = [asyncio.create_task(advises(each)) for each in addresses]
        try:
            for answer in asyncio.as_completed(asking):
                if await answer:
                    return True
        finally:
            for each in asking:
                each.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        return False

    def _offer(self, heard: ClusterImage, address: str) -> ClusterImage:
        """Publish what a node says unless it lags behind what is known; return its picture."""
        known = self.image
        if known.cluster_id not in {"", heard.cluster_id}:
            _log.warning(
                "%s belongs to cluster %s, not to %s: starting afresh",
                address,
                heard.cluster_id,
                known.cluster_id,
            )
            known = EMPTY
        if heard.version < known.version:
            return heard
        merged = heard.keeping_newest_leaders(known)
        self._watched = address
        self._failures.clear()
        self._publish(merged)
        return merged

    async def _another_node_knows(self, name: str) -> bool:
        """Ask one more node about a topic the watched one does not know: it may lag a little."""
        others = [each for each in self.addresses() if each != self._watched]
        if not others or not self.image.nodes:
            return False
        try:
            answer = await unary(
                self._connections.to(others[0]).metadata.GetMetadata,
                metadata_pb2.GetMetadataRequest(topics=[name]),
                timeout_s=_PROBE_TIMEOUT_S,
            )
        except (BrokerError, ConnectionLostError):
            return False
        if not any(topic.name == name and not topic.error.code for topic in answer.topics):
            return False
        await self.at_least(answer.version, timeout_s=self._request_timeout_s)
        return True

    # ------------------------------------------------------------------ publishing

    def _publish(self, image: ClusterImage) -> None:
        self.image = image
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, holds: Callable[[], bool], timeout_s: float, reason: str) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not holds():
                    if self._is_closed:
                        raise ClientClosedError("the client is closed")
                    await self._changed.wait()
        except TimeoutError:
            met = "; ".join(f"{address}: {error}" for address, error in self._failures.items())
            raise NodesUnreachableError(
                f"{reason} after {timeout_s:g} s" + (f" ({met})" if met else ""),
                field="bootstrap",
                value=",".join(self._bootstrap),
                limit=timeout_s,
            ) from None


async def _hears_controller(connection: Connection) -> bool:
    answer = await unary(
        connection.metadata.GetMetadata,
        metadata_pb2.GetMetadataRequest(),
        timeout_s=_PROBE_TIMEOUT_S,
    )
    return answer.controller_id >= 0
