"""Producer ids are unique and cheap."""

import asyncio
from itertools import count

import pytest

from odradek.node.cluster.producer_ids import ProducerIds
from odradek.protocol.errors import InvalidRequestError


class _Controller:
    def __init__(self) -> None:
        self._next = count(100, 3)
        self.blocks = 0

    async def allocate(self) -> range:
        self.blocks += 1
        await asyncio.sleep(0)
        first = next(self._next)
        return range(first, first + 3)


async def test_ids_are_unique_also_when_asked_for_at_once() -> None:
    controller = _Controller()
    ids = ProducerIds(controller.allocate)
    granted = await asyncio.gather(*(ids.grant() for _ in range(9)))
    assert sorted(granted) == [(producer_id, 0) for producer_id in range(100, 109)]
    assert controller.blocks == 3


async def test_an_id_is_kept_with_the_next_epoch_until_its_epochs_are_used_up() -> None:
    ids = ProducerIds(_Controller().allocate)
    assert await ids.grant(7, 0) == (7, 1)
    assert await ids.grant(7, 32766) == (7, 32767)
    assert await ids.grant(7, 32767) == (100, 0)


@pytest.mark.parametrize("held", [(5, -1), (-1, 5), (5, 32768), (1 << 63, 1)])
async def test_numbers_that_do_not_go_together_are_refused(held: tuple[int, int]) -> None:
    with pytest.raises(InvalidRequestError):
        await ProducerIds(_Controller().allocate).grant(*held)
