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


def checked(records: Buffer, config: TopicConfig) -> BatchHeader:
    """Return the header of a producer's batch.

    Args:
        records: The batch, and nothing else.
        config: The topic's settings.

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
    return header


def timestamp_refusal(
    header: BatchHeader, config: TopicConfig, topic: TopicName, now_ms: int
) -> InvalidTimestampError | None:
    """Return why a batch is too far ahead of the clock, or None; not for what the log has already.

    Args:
        header: What `checked` returned.
        config: The topic's settings.
        topic: For messages.
        now_ms: The node's wall clock, milliseconds since the epoch.
    """
    ahead_ms, ahead_max_ms = header.max_timestamp - now_ms, int(config.timestamp_ahead_max_s * 1000)
    if ahead_ms <= ahead_max_ms or config.timestamp_type is TimestampType.LOG_APPEND_TIME:
        return None
    return InvalidTimestampError(
        f"the batch's latest timestamp is {ahead_ms} ms ahead of the node's clock, topic {topic!r}"
        f" allows {ahead_max_ms}",
        field="max_timestamp",
        value=header.max_timestamp,
        limit=now_ms + ahead_max_ms,
    )


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
