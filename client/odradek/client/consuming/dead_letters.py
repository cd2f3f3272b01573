"""Where records go that no attempt could handle: another topic, with their origin in headers."""

from typing import Final

from odradek.client.producer import Producer
from odradek.protocol.record_batch import PlainRecord
from odradek.protocol.types import TopicPartition

ORIGIN_TOPIC: Final = "odradek-origin-topic"
ORIGIN_PARTITION: Final = "odradek-origin-partition"
ORIGIN_OFFSET: Final = "odradek-origin-offset"
ERROR: Final = "odradek-error"

_ERROR_LENGTH_MAX: Final = 1024


class DeadLetterTopic:
    """Stores records in a topic, keys, values and headers unchanged."""

    def __init__(self, producer: Producer[bytes, bytes], topic: str) -> None:
        self._producer = producer
        self._topic = topic

    async def put(self, raw: PlainRecord, origin: TopicPartition, error: BaseException) -> None:
        """Return once the record is acknowledged.

        Raises:
            OdradekError: It could not be stored; the record counts as not handled.
        """
        reason = f"{type(error).__name__}: {error}"[:_ERROR_LENGTH_MAX]
        await self._producer.send(
            self._topic,
            raw.value,
            key=raw.key,
            headers=[
                *raw.headers,
                (ORIGIN_TOPIC, origin.topic.encode()),
                (ORIGIN_PARTITION, b"%d" % origin.partition),
                (ORIGIN_OFFSET, b"%d" % raw.offset),
                (ERROR, reason.encode(errors="backslashreplace")),
            ],
        )
