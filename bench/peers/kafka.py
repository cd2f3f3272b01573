"""Apache Kafka (KRaft) through confluent-kafka, the client in C.

Its calls block or poll, so whatever waits does so in a thread.
"""

import asyncio
import threading
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from bench.peers.server import (
    HOST,
    INSTALLED,
    ServerAbsentError,
    completed,
    find,
    held_port,
    running,
)
from bench.peers.system import Durability
from bench.stage import PARTITIONS

_TOPIC_CONFIG: dict[Durability, dict[str, str]] = {
    Durability.CACHE: {},
    Durability.COMMIT: {"flush.messages": "1"},
}
_JVM = (
    *("-server", "-Xms1G", "-Xmx1G", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"),
    *("-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"),
)
_BATCH_RECORDS = 10_000
_TIMEOUT_S = 30.0
_OF_PRODUCER = {
    "acks": "all",
    "queue.buffering.max.messages": 1_000_000,
    "delivery.report.only.error": True,
}


def _jars() -> Path:
    jars = INSTALLED / "kafka"
    if not jars.exists():
        raise ServerAbsentError(
            "Kafka is not installed: `make bench-peers` fetches its jars; Maven is needed"
        )
    return jars


@dataclass(frozen=True, slots=True)
class System:
    """Processes that are broker and controller in one, with the start scripts' JVM flags."""

    nodes: int = 1
    name: ClassVar = "Kafka"

    @property
    def settings(self) -> Mapping[Durability, str]:
        """Partitions, and how they are written to."""
        return {
            durability: f"6 partitions, {self.nodes} replicas, flush.messages"
            f" {config.get('flush.messages', 'never')}; acks=all; produce_batch, produce, consume;"
            " latency with linger.ms 0; heap 1 GiB"
            for durability, config in _TOPIC_CONFIG.items()
        }

    def version(self) -> str:
        """Return the versions of server and client."""
        find("java", how="apt-get install default-jre-headless")
        server = next(_jars().glob("kafka-server-[0-9]*.jar")).stem
        return f"{server.replace('-server-', ' ')}, confluent-kafka {version('confluent-kafka')}"

    @asynccontextmanager
    async def serve(self, durability: Durability, directory: Path) -> AsyncIterator["_Broker"]:
        """Format the directories and run the servers."""
        java = find("java", how="apt-get install default-jre-headless")
        run = (java, *_JVM, "-cp", f"{_jars()}/*")
        cluster_id = uuid.uuid4().hex[:22]
        async with AsyncExitStack() as servers:
            ports = [servers.enter_context(held_port()) for _ in range(self.nodes)]
            controller_ports = [servers.enter_context(held_port()) for _ in range(self.nodes)]
            voters = ",".join(
                f"{number}@{HOST}:{port}" for number, port in enumerate(controller_ports, 1)
            )
            started = []
            for number, (port, controller_port) in enumerate(
                zip(ports, controller_ports, strict=True), 1
            ):
                place = directory / f"{number}"
                place.mkdir()
                config = place / "server.properties"
                config.write_text(
                    "process.roles=broker,controller\n"
                    f"node.id={number}\n"
                    f"controller.quorum.voters={voters}\n"
                    f"listeners=PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}\n"
                    "controller.listener.names=CONTROLLER\n"
                    f"log.dirs={place / 'data'}\n"
                    "offsets.topic.replication.factor=1\n"
                )
                format_ = ("format", "-t", cluster_id, "-c", str(config))
                tool = ("kafka.tools.StorageTool", *format_)
                await completed("kafka-format", *run, *tool, directory=place)
                server = running(
                    "kafka", *run, "kafka.Kafka", str(config), port=port, directory=place
                )
                started.append(server)
            async with asyncio.TaskGroup() as starting:  # one alone would wait for the others
                for server in started:
                    starting.create_task(servers.enter_async_context(server))
            address = ",".join(f"{HOST}:{port}" for port in ports)
            yield _Broker(address, self.nodes, _TOPIC_CONFIG[durability])


@dataclass(frozen=True, slots=True)
class _Broker:
    address: str
    nodes: int
    topic_config: dict[str, str]

    @asynccontextmanager
    async def stream(self) -> AsyncIterator["_Stream"]:
        admin = AdminClient({"bootstrap.servers": self.address})
        topic = uuid.uuid4().hex
        new = NewTopic(topic, PARTITIONS, self.nodes, config=self.topic_config)
        await asyncio.to_thread(admin.create_topics([new])[topic].result, _TIMEOUT_S)
        producer = Producer({"bootstrap.servers": self.address, **_OF_PRODUCER})
        yield _Stream(self.address, topic, producer)
        await asyncio.to_thread(producer.close)
        await asyncio.to_thread(admin.delete_topics([topic])[topic].result, _TIMEOUT_S)


def _on_delivery(error: KafkaError | None, _message: Message) -> None:
    if error is not None:
        raise KafkaException(error)


@dataclass(frozen=True, slots=True)
class _Stream:
    address: str
    topic: str
    producer: Producer

    async def produce_many(self, values: Sequence[bytes]) -> None:
        for start in range(0, len(values), _BATCH_RECORDS):
            batch = [{"value": value} for value in values[start : start + _BATCH_RECORDS]]
            accepted = self.producer.produce_batch(self.topic, batch, on_delivery=_on_delivery)
            assert accepted == len(batch), "the queue has room for every call"
            self.producer.poll(0)
        self._flush(self.producer)

    async def produce_one_by_one(self, values: Sequence[bytes]) -> None:
        topic, produce = self.topic, self.producer.produce
        for value in values:
            produce(topic, value, on_delivery=_on_delivery)
        self._flush(self.producer)

    async def produce_at_once(self, values: AsyncIterable[bytes]) -> None:
        producer = Producer({"bootstrap.servers": self.address, **_OF_PRODUCER, "linger.ms": 0})
        async for value in values:
            producer.produce(self.topic, value, on_delivery=_on_delivery)
        await asyncio.to_thread(self._flush, producer)
        await asyncio.to_thread(producer.close)

    async def consume(self, count: int, see: Callable[[bytes], object]) -> None:
        given_up = threading.Event()  # cancelling the await does not end the thread
        try:
            await asyncio.to_thread(self._consume, count, see, given_up)
        finally:
            given_up.set()

    def _consume(
        self, count: int, see: Callable[[bytes], object], given_up: threading.Event
    ) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": self.address,
                "group.id": self.topic,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        consumer.assign([TopicPartition(self.topic, index, 0) for index in range(PARTITIONS)])
        while count > 0 and not given_up.is_set():
            # One record is enough to return: what else has arrived comes with it.
            for message in consumer.consume(_BATCH_RECORDS, timeout=0.0) or [consumer.poll(1.0)]:
                if message is not None:
                    assert message.error() is None, message.error()
                    see(message.value())
                    count -= 1
        consumer.close()

    @staticmethod
    def _flush(producer: Producer) -> None:
        left = producer.flush(_TIMEOUT_S)
        assert left == 0, f"{left} records were not acknowledged within {_TIMEOUT_S:g} s"
