"""Drains a producer's queues: one `NodeSender` per node, plus what no single node can attend to.

That is: the producer's identity (granted once, renewed when a sequence is broken), leaders that
move, topics that vanish, and delivery time-outs. One tick attends to the partitions that have
something pending; idle ones cost nothing.

Invariant: every queue that is not idle is in `_busy`, and in the line of its leader's sender when
there is a leader.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Final

from odradek.client.cluster.background import Background
from odradek.client.cluster.connections import Connection, unary
from odradek.client.cluster.image import ClusterImage, TopicInfo
from odradek.client.cluster.scope import Scope
from odradek.client.config import Acks, Compression, ProducerOptions
from odradek.client.errors import ClientClosedError
from odradek.client.producing.accumulator import TopicQueues
from odradek.client.producing.ledger import Ledger
from odradek.client.producing.node_sender import NodeSender
from odradek.client.producing.partition_queue import PartitionQueue, QueueLimits
from odradek.client.producing.producer_batch import ProducerBatch, ProducerIdentity
from odradek.client.producing.sender_settings import SenderSettings
from odradek.protocol.errors import OdradekError, UnknownTopicOrPartitionError
from odradek.protocol.record_batch import Codec
from odradek.protocol.types import NodeId, ProducerEpoch, ProducerId, TopicName
from odradek.rpc.backoff import delays
from odradek.rpc.channels import ConnectionLostError
from odradek.v1 import broker_pb2

_TICK_S: Final = 0.1
# For one attempt: a node may hang, and any other will do.
_IDENTITY_TIMEOUT_S: Final = 2.0
_PRODUCER_EPOCH_MAX: Final = (1 << 15) - 1
_CODECS: Final = {
    Compression.NONE: Codec.NONE,
    Compression.GZIP: Codec.GZIP,
    Compression.SNAPPY: Codec.SNAPPY,
    Compression.LZ4: Codec.LZ4,
    Compression.ZSTD: Codec.ZSTD,
}

_log = logging.getLogger(__name__)


class Sender:
    """One producer's.

    Attributes:
        topics: The topics in use, by name.
        lock: Guards queues and ledger; does nothing unless threads fill them.
    """

    def __init__(
        self,
        scope: Scope,
        options: ProducerOptions,
        *,
        ledger: Ledger,
        lock: AbstractContextManager[Any],
        on_turn: Callable[[], None],
        on_topic_gone: Callable[[TopicQueues], None],
        on_broken: Callable[[], None],
    ) -> None:
        self.topics: dict[TopicName, TopicQueues] = {}
        self.lock = lock
        self._scope = scope
        self._options = options
        self._ledger = ledger
        self._limits = QueueLimits(
            batch_bytes=options.batch_bytes,
            linger_s=options.linger_s,
            delivery_timeout_s=options.delivery_timeout_s,
            # Without sequences a retry could overtake the batch after it.
            in_flight=options.in_flight if options.acks is Acks.ALL else 1,
            retry_delay_s=options.retry_delay_s,
            retry_delay_max_s=options.retry_delay_max_s,
        )
        self._on_turn = on_turn
        self._on_topic_gone = on_topic_gone
        self._tell_broken = on_broken
        self._broken: BaseException | None = None
        self._background = Background("producer", on_failure=self._on_broken)
        self._busy: dict[PartitionQueue, None] = {}
        self._nodes: dict[NodeId, NodeSender] = {}
        self._identity: ProducerIdentity | None = None
        self._identity_wanted = asyncio.Event()
        self._something_pending = asyncio.Event()
        self._compressor = ThreadPoolExecutor(1, thread_name_prefix="odradek-compress")
        self._settings = SenderSettings(
            options=options,
            codec=_CODECS[options.compression],
            compressor=self._compressor,
            lock=lock,
            identity=lambda: self._identity,
            on_answers=self._on_answers,
            hint_leader=scope.metadata.hint_leader,
            suspect=scope.metadata.suspect,
        )

    async def start(self) -> None:
        """Begin to drain."""
        await self._background.start()
        self._scope.on_close.add(self._on_client_closed)
        self._background.spawn(self._follow_leaders(), name="leaders")
        self._background.spawn(self._keep_time(), name="time")
        if self._options.acks is Acks.ALL:
            self._identity_wanted.set()
            self._background.spawn(self._keep_identity(), name="identity")

    def check(self) -> None:
        """Refuse when the client was closed, or a task of the producer has failed.

        Raises:
            ClientClosedError: Caused by that failure, if it was one.
        """
        if self._broken is not None:
            self._scope.check()
            raise ClientClosedError(f"the producer broke: {self._broken!r}") from self._broken

    def use(self, info: TopicInfo) -> TopicQueues:
        """Return the queues of a topic."""
        topic = self.topics.get(info.name)
        if topic is None:
            topic = self.topics[info.name] = TopicQueues.of(
                info,
                self._limits,
                self._ledger,
                compresses=self._options.compression is not Compression.NONE,
            )
        return topic

    def on_ready(self, queue: PartitionQueue) -> None:
        """A queue has a new batch, or a full one."""
        self._busy[queue] = None
        self._something_pending.set()
        node = self._sender_of(queue)
        if node is not None:
            node.on_ready(queue)

    def hurry(self) -> list[ProducerBatch]:
        """Let nothing linger; return every batch without an outcome."""
        pending: list[ProducerBatch] = []
        with self.lock:
            for queue in self._busy:
                queue.hurry()
                pending += queue.pending()
        self._wake_nodes()
        return pending

    async def close(self) -> None:
        """Stop; whatever is still without outcome fails."""
        self._scope.on_close.discard(self._on_client_closed)
        try:
            await self._background.close()
        finally:
            self._abandon("the producer ended")
            self._compressor.shutdown(wait=False)

    def _on_broken(self, error: BaseException) -> None:
        self._refuse(error, f"the producer broke: {error!r}")

    def _on_client_closed(self) -> None:
        self._refuse(self._scope.misuse(), "the client was closed")

    def _refuse(self, error: BaseException, reason: str) -> None:
        """Nobody would ever answer those who wait: tell them."""
        self._broken = self._broken or error
        self._tell_broken()
        self._abandon(reason)

    def _abandon(self, reason: str) -> None:
        with self.lock:
            for queue in self._busy:
                queue.abandon(reason)
            self._busy.clear()
        self._on_turn()

    # ------------------------------------------------------------------ leaders

    def _sender_of(self, queue: PartitionQueue) -> NodeSender | None:
        node_id = queue.leader_id
        if node_id < 0:
            return None
        node = self._nodes.get(node_id)
        if node is None:
            node = NodeSender(node_id, lambda: self._connect(node_id), self._settings)
            self._nodes[node_id] = node
            self._background.spawn(node.run(), name=f"node-{node_id}")
        return node

    def _connect(self, node_id: NodeId) -> Connection:
        node = self._scope.metadata.node(node_id)
        if node is None:
            raise ConnectionLostError(f"node {node_id} has left the cluster")
        return self._scope.connections.to(node.address)

    async def _follow_leaders(self) -> None:
        image = self._scope.metadata.image
        while True:
            self._on_image(image)
            image = await self._scope.metadata.newer_than(image)

    def _on_image(self, image: ClusterImage) -> None:
        now_s = asyncio.get_running_loop().time()
        for name, topic in list(self.topics.items()):
            info = image.topics.get(name)
            if info is topic.info:
                continue
            with self.lock:
                # Fewer partitions: it was deleted and made again, in one step for us.
                if info is None or len(info.partitions) < len(topic.queues):
                    self._drop(topic)
                    continue
                moved = topic.on_info(info, now_s)
            for queue in moved:
                for sender in self._nodes.values():
                    sender.queues.pop(queue, None)
                if not queue.idle:
                    self.on_ready(queue)
        for node_id, sender in self._nodes.items():
            node = image.nodes.get(node_id)
            sender.on_address(None if node is None or node.fenced else node.address)

    def _drop(self, topic: TopicQueues) -> None:
        """Fail what waits for a topic that was deleted."""
        del self.topics[topic.info.name]
        error = self._deleted(topic.info.name)
        for queue in topic.queues:
            queue.give_up(error)
            self._retire(queue)
        self._on_topic_gone(topic)
        self._on_turn()

    def _deleted(self, name: TopicName) -> UnknownTopicOrPartitionError:
        if name not in self._scope.metadata.image.topics:
            return self._scope.metadata.unknown_topic(name)
        return UnknownTopicOrPartitionError(
            f"topic {name!r} was deleted and made again with fewer partitions",
            field="topic",
            value=name,
        )

    def _retire(self, queue: PartitionQueue) -> None:
        self._busy.pop(queue, None)
        for node in self._nodes.values():
            node.queues.pop(queue, None)

    def _on_answers(self, queues: list[PartitionQueue]) -> None:
        for queue in queues:
            if queue.idle:
                self._busy.pop(queue, None)
            elif queue.refused_identity is self._identity:
                self._renew_identity(queue)
        self._on_turn()

    # ------------------------------------------------------------------ time and identity

    async def _keep_time(self) -> None:
        while True:
            await self._something_pending.wait()
            await asyncio.sleep(_TICK_S)
            now_s = asyncio.get_running_loop().time()
            with self.lock:
                for queue in list(self._busy):
                    queue.on_time(now_s)
                    if queue.idle:
                        self._retire(queue)
            if not self._busy:
                self._something_pending.clear()
            self._on_turn()

    def _renew_identity(self, queue: PartitionQueue) -> None:
        """Go on after a broken sequence: with the next epoch (KIP-360), or with a new id.

        Nobody else has the id, so the epoch is ours to raise. Each partition takes the new identity
        once the batches it sent with the old one are answered.
        """
        held = self._identity
        if held is None:
            return  # a new one is on its way
        if queue.is_fenced or held.epoch >= _PRODUCER_EPOCH_MAX:
            self._identity = None
            self._identity_wanted.set()
            return
        self._identity = ProducerIdentity(held.producer_id, ProducerEpoch(held.epoch + 1))
        self._wake_nodes()

    async def _keep_identity(self) -> None:
        while True:
            await self._identity_wanted.wait()
            self._identity_wanted.clear()
            self._identity = await self._init_producer_id()
            self._wake_nodes()

    def _wake_nodes(self) -> None:
        for node in self._nodes.values():
            node.wake()

    async def _init_producer_id(self) -> ProducerIdentity:
        """Ask any node, until one grants an identity."""
        pauses = delays(self._scope.chance, initial_s=self._options.retry_delay_s)
        while True:
            for address in self._scope.metadata.addresses():
                try:
                    answer = await unary(
                        self._scope.connections.to(address).broker.InitProducerId,
                        broker_pb2.InitProducerIdRequest(producer_id=-1, producer_epoch=-1),
                        timeout_s=min(_IDENTITY_TIMEOUT_S, self._scope.options.request_timeout_s),
                    )
                except OdradekError as error:
                    _log.debug("no producer id from %s: %s", address, error)
                    continue
                return ProducerIdentity(
                    ProducerId(answer.producer_id), ProducerEpoch(answer.producer_epoch)
                )
            await asyncio.sleep(next(pauses))
