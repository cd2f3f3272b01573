"""Producer ids, granted from blocks that the controller hands out.

Problem: ids must be unique in the cluster, and producers must not wait for a Raft commit each.
Idea: each node takes a block at a time. What is left when the node stops is never used.

Source: KIP-730.
"""

import asyncio
from collections.abc import Awaitable, Callable

from odradek.protocol.errors import InvalidRequestError
from odradek.protocol.types import ProducerEpoch, ProducerId

_EPOCH_MAX = (1 << 15) - 1
_ID_MAX = (1 << 63) - 1


class ProducerIds:
    """Grants ids for idempotent producers.

    Args:
        allocate: Takes the next block from the controller.
    """

    def __init__(self, allocate: Callable[[], Awaitable[range]]) -> None:
        self._allocate = allocate
        self._block = iter(range(0))
        self._allocating = asyncio.Lock()

    async def grant(
        self, held_id: int = -1, held_epoch: int = -1
    ) -> tuple[ProducerId, ProducerEpoch]:
        """Return an id with its epoch.

        Args:
            held_id: The id the producer has; -1 for none. It keeps it with the next epoch, unless
                its epochs are used up.
            held_epoch: The epoch it has.

        Raises:
            InvalidRequestError: An id without an epoch, or numbers out of bounds.
        """
        if (held_id < 0) != (held_epoch < 0) or held_id > _ID_MAX or held_epoch > _EPOCH_MAX:
            raise InvalidRequestError(
                f"producer id {held_id} and epoch {held_epoch} do not go together",
                field="producer_epoch",
                value=held_epoch,
                limit=_EPOCH_MAX,
            )
        if held_id >= 0 and held_epoch < _EPOCH_MAX:
            return ProducerId(held_id), ProducerEpoch(held_epoch + 1)
        return await self._next(), ProducerEpoch(0)

    async def _next(self) -> ProducerId:
        async with self._allocating:
            for producer_id in self._block:
                return ProducerId(producer_id)
            self._block = iter(await self._allocate())
            return ProducerId(next(self._block))
