"""Errors that arise in the SDK itself; those a cluster answers are in `odradek.protocol.errors`.

Each says whether the outcome is known: after a `DeliveryTimeoutError` or `DeliveryAbandonedError`
the records may be in the log, which `maybe_appended` tells; after every other error here nothing
was sent.
"""

from typing import ClassVar

from odradek.protocol.errors import OdradekError


class InvalidOptionsError(OdradekError):
    """Options contradict each other or break a limit; the message lists every mistake.

    Attributes:
        reasons: One sentence per mistake.
    """

    def __init__(self, options: str, reasons: tuple[str, ...]) -> None:
        self.reasons = reasons
        super().__init__(f"{options}: " + "; ".join(reasons), field=options)


class ClientClosedError(OdradekError):
    """The client, producer or consumer is closed, or was not entered with `async with`."""


class ForkedProcessError(OdradekError):
    """A client made before a fork was used in the child; connections do not survive a fork."""


class WrongEventLoopError(OdradekError):
    """A client was used in another event loop than the one it was entered in."""


class NodesUnreachableError(OdradekError):
    """No node of the cluster answers; nothing was sent."""

    retriable: ClassVar[bool] = True
    refreshes_metadata: ClassVar[bool] = True


class SerializationError(OdradekError):
    """A key, value or header cannot be turned into bytes; nothing was sent.

    Attributes:
        topic: Where it should have gone.
        key: The record's key as given.
        serde: The name of the serde that refused.
    """

    def __init__(self, topic: str, *, part: str, key: object, serde: str, reason: str) -> None:
        self.topic = topic
        self.key = key
        self.serde = serde
        super().__init__(
            f"the {part} of a record for topic {topic!r} with key {_short(key)} does not"
            f" serialize with {serde}: {reason}",
            field=part,
            value=_short(key),
        )


class PartitionerError(OdradekError):
    """The application's partitioner failed on a record; nothing was sent.

    Attributes:
        topic: Where the record should have gone.
        key: Its encoded key.
        partitioner: The partitioner's name.
    """

    def __init__(self, topic: str, *, key: bytes | None, partitioner: str, reason: str) -> None:
        self.topic = topic
        self.key = key
        self.partitioner = partitioner
        super().__init__(
            f"partitioner {partitioner} chooses no partition of topic {topic!r} for key"
            f" {_short(key)}: {reason}",
            field="partitioner",
            value=_short(key),
        )


class DeserializationError(OdradekError):
    """A record's bytes do not fit the serde; the consumer may go on after it.

    Attributes:
        topic: Where the record lies.
        partition: Where the record lies.
        offset: Where the record lies.
        serde: The name of the serde that refused.
    """

    def __init__(
        self, topic: str, partition: int, offset: int, *, part: str, serde: str, reason: str
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.serde = serde
        super().__init__(
            f"the {part} of the record at {topic}-{partition} offset {offset} does not"
            f" deserialize with {serde}: {reason}",
            field=part,
            value=f"{topic}-{partition}@{offset}",
        )


class NoCommittedOffsetError(OdradekError):
    """The group has no committed offset for a partition, and `start="none"` gives no other.

    Attributes:
        topic: Which partition; `seek` decides where to begin.
        partition: Which partition.
    """

    def __init__(self, topic: str, partition: int, group: str | None) -> None:
        self.topic = topic
        self.partition = partition
        super().__init__(
            f'group {group!r} has no committed offset for {topic}-{partition} and start is "none"',
            field="start",
            value=f"{topic}-{partition}",
        )


class LogTruncatedError(OdradekError):
    """Records this consumer has read are gone from the log, and `start="none"` (KIP-320).

    Attributes:
        topic: Which partition; `seek` decides where to go on.
        partition: Which partition.
        position: Where the consumer stood.
        end_offset: Where the common history ends; -1 when unknown.
    """

    def __init__(self, topic: str, partition: int, *, position: int, end_offset: int) -> None:
        self.topic = topic
        self.partition = partition
        self.position = position
        self.end_offset = end_offset
        super().__init__(
            f"{topic}-{partition} was truncated at {end_offset}, below the position {position}",
            field="offset",
            value=position,
            limit=end_offset,
        )


class ConsumerBusyError(OdradekError):
    """Two tasks ask one consumer for records: it hands out to one; `run` is for concurrency."""


class NotAssignedError(OdradekError):
    """The partition is not assigned to this consumer (any more)."""


class BufferFullError(OdradekError):
    """The producer's buffer had no room within the delivery time-out; nothing was sent."""


class DeliveryTimeoutError(OdradekError):
    """Not acknowledged within the delivery time-out.

    Attributes:
        topic: Where the records should have gone.
        partition: Where the records should have gone.
        maybe_appended: False: surely not in the log. True: they were sent, and may be in it.
    """

    def __init__(self, message: str, *, topic: str, partition: int, maybe_appended: bool) -> None:
        self.topic = topic
        self.partition = partition
        self.maybe_appended = maybe_appended
        super().__init__(message, field="delivery_timeout_s", value=f"{topic}-{partition}")


class DeliveryAbandonedError(OdradekError):
    """The producer ended, in haste or by a failure of its own, before the acknowledgement came.

    Attributes:
        topic: Where the records should have gone.
        partition: Where the records should have gone.
        maybe_appended: False: surely not in the log. True: they were sent, and may be in it.
    """

    def __init__(self, message: str, *, topic: str, partition: int, maybe_appended: bool) -> None:
        self.topic = topic
        self.partition = partition
        self.maybe_appended = maybe_appended
        super().__init__(message, value=f"{topic}-{partition}")


class DeliveryFailedError(OdradekError):
    """Records whose delivery nobody awaited were not acknowledged; the cause is the first error.

    Attributes:
        record_count: How many records, over all batches.
        errors: The distinct failures, one per batch.
    """

    def __init__(self, record_count: int, errors: tuple[OdradekError, ...]) -> None:
        self.record_count = record_count
        self.errors = errors
        super().__init__(
            f"{record_count} record(s) that nobody awaited were not acknowledged;"
            f" first: {type(errors[0]).__name__}: {errors[0]}",
            value=record_count,
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 64 else text[:61] + "..."
