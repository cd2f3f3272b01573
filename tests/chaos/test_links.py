"""A fault that does nothing is noticed."""

import asyncio

import pytest

from tests.chaos.fabric import Fabric
from tests.chaos.links import cut_off
from tests.virtual_time import run


def test_a_node_that_sends_its_heartbeats_past_a_cut_is_noticed() -> None:
    async def cut_for(cut_s: float) -> None:
        async with Fabric() as fabric:
            with cut_off(fabric, "node 1", ["controller 1"]):
                await asyncio.sleep(cut_s)

    run(cut_for(1.0))  # it may have had nothing to say
    with pytest.raises(AssertionError, match="controller 1 was kept back"):
        run(cut_for(9.0))
