"""What the senders of all nodes have in common."""

from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from odradek.client.config import ProducerOptions
from odradek.client.producing.partition_queue import PartitionQueue
from odradek.client.producing.producer_batch import ProducerIdentity
from odradek.protocol.record_batch import Codec


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderSettings:
    """One producer's.

    Attributes:
        options: The producer's.
        codec: How batches are compressed.
        compressor: Compresses off the loop.
        lock: Guards the queues; does nothing unless threads fill them.
        identity: Returns the producer's present identity.
        on_answers: Called after answers were taken in: room may be free, a leader may have moved.
        hint_leader: (topic id, partition, leader, epoch) named by a node.
        suspect: Called when the node does not answer.
    """

    options: ProducerOptions
    codec: Codec
    compressor: Executor
    lock: AbstractContextManager[Any]
    identity: Callable[[], ProducerIdentity | None]
    on_answers: Callable[[list[PartitionQueue]], None]
    hint_leader: Callable[[bytes, int, int, int], bool]
    suspect: Callable[[], None]
