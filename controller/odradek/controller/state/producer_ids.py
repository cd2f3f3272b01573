"""Producer ids, granted to nodes in blocks so that few grants need the log. Pure.

Invariant: no producer id is granted twice; what a dead node did not use is lost, of 2^63.

Source: KIP-730 (producer id generation in KRaft).
"""

from dataclasses import dataclass

from odradek.controller.state.image import Draft
from odradek.controller.state.records import ProducerIdsGranted
from odradek.protocol.types import ProducerId

BLOCK_COUNT = 1000


@dataclass(frozen=True, slots=True)
class ProducerIdBlock:
    """Ids a node may hand out: `count` of them from `first`."""

    first: ProducerId
    count: int


def allocate(draft: Draft) -> ProducerIdBlock:
    """Grant the next block."""
    first = draft.image.next_producer_id
    draft.record(ProducerIdsGranted(ProducerId(first + BLOCK_COUNT)))
    return ProducerIdBlock(first, BLOCK_COUNT)
