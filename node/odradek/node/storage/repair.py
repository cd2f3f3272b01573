"""Putting a batch back whose bytes the disk has lost.

Idea: the index holds the header of every batch, CRC included, so that whatever is offered in its
place is proven to be what was there, or refused. References, epochs and windows stay as they are.
"""

from odradek.node.storage.log import PartitionLog
from odradek.node.storage.store import Mutation
from odradek.protocol.errors import InvalidRecordError
from odradek.protocol.record_batch import verify
from odradek.protocol.types import Offset


def repair_batch(log: PartitionLog, batch: bytes) -> int:
    """Put a batch in the place of one whose bytes are damaged.

    Args:
        log: Whose.
        batch: As another replica has it.

    Returns:
        The position of the change.

    Raises:
        CorruptMessageError: It is damaged too.
        InvalidRecordError: The log has another batch at its offset.
        StorageFullError, ThrottledError: Nothing was written.
    """
    header = verify(batch)
    following = Offset(header.base_offset + 1)
    reader, writer = log._reader, log._writer  # noqa: SLF001  a part of the log, for want of room
    entry = reader.last_entry(following)
    if entry is None or entry.header != header:
        raise InvalidRecordError(
            f"the batch offered for offset {header.base_offset} is not the one that was there",
            field="base_offset",
            value=header.base_offset,
        )
    writer.admit(len(batch))
    mutation = Mutation()
    mutation.delete_batches(log.uid, header.base_offset, following)
    mutation.put_batch(log.uid, header.base_offset, batch)
    log.last_position = writer.apply(mutation)
    return log.last_position
