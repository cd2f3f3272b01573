"""One produce request: which attempts it carries, and its bytes. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from odradek.client.config import Acks, ProducerOptions
from odradek.client.producing.partition_queue import PartitionQueue
from odradek.client.producing.producer_batch import ProducerBatch
from odradek.protocol import hot
from odradek.protocol.hot import ProduceFrame, ProducePartitionFrame, encode_produce_request


class Attempt(NamedTuple):
    """One sending of a batch; an answer counts only while `number` is the batch's present one."""

    queue: PartitionQueue
    batch: ProducerBatch
    number: int

    @property
    def is_current(self) -> bool:
        """False once the batch was sent again."""
        return self.batch.attempts == self.number


@dataclass(frozen=True, slots=True)
class Request:
    """One request under way.

    Attributes:
        sent_s: When.
        attempts: Its batches.
    """

    sent_s: float
    attempts: list[Attempt]


def encode(
    correlation_id: int, request: Request, payloads: Sequence[bytearray], options: ProducerOptions
) -> bytes:
    """Return a request as it travels; `payloads` are its batches, as compressed as they get."""
    return encode_produce_request(
        ProduceFrame(
            correlation_id,
            hot.Acks.ALL if options.acks is Acks.ALL else hot.Acks.LEADER,
            int(options.request_timeout_s * 1000),
            "",
            [
                ProducePartitionFrame(
                    queue.topic_id, queue.topic, queue.partition, queue.leader_epoch, payload
                )
                for (queue, _, _), payload in zip(request.attempts, payloads, strict=True)
            ],
        )
    )
