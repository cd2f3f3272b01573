"""What a producer's batch must be before it is appended. Pure."""

from odradek.protocol.errors import (
    InvalidRecordError,
    InvalidRequestError,
    InvalidTimestampError,
    InvalidTxnStateError,
)
from odradek.protocol.hot import Buffer
from odradek.protocol.record_batch import BatchHeader, declared_bytes, split, validate
from odradek.protocol.topic_config import TimestampType, TopicConfig
from odradek.protocol.types import TopicName


def checked(records: Buffer, config: TopicConfig, topic: TopicName, now_ms: int) -> BatchHeader:
    """Return the header of a producer's batch.

    Args:
        records: The batch, and nothing else.
        config: The topic's settings.
        topic: For messages.
        now_ms: The node's clock, milliseconds since the epoch.

    Raises:
        BrokerError: It is damaged, too large, or breaks a rule of the topic.
    """
    if declared_bytes(records) != len(records):
        _check_single(records)
    header = validate(records, config.max_message_bytes)
    if header.is_transactional:
        raise InvalidTxnStateError(
            "transactions come later; send without a transactional id",
            field="attributes.transactional",
            value=True,
        )
    ahead_max_ms = int(config.timestamp_ahead_max_s * 1000)
    if header.max_timestamp - now_ms > ahead_max_ms and (
        config.timestamp_type is TimestampType.CREATE_TIME
    ):
        raise InvalidTimestampError(
            f"the batch's latest timestamp is {header.max_timestamp - now_ms} ms ahead of the"
            f" node's clock, topic {topic!r} allows {ahead_max_ms}",
            field="max_timestamp",
            value=header.max_timestamp,
            limit=now_ms + ahead_max_ms,
        )
    return header


def _check_single(records: Buffer) -> None:
    """Refuse what is no batch, or more than one."""
    first = next(split(records), None)
    if first is None:
        raise InvalidRequestError("no record batch was sent", field="records")
    if len(first) < len(records):
        raise InvalidRecordError(
            f"an entry holds one record batch; behind it are {len(records) - len(first)} bytes",
            field="records",
            value=len(records),
            limit=len(first),
        )
