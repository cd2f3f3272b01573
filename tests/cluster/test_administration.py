"""Administration beside what else goes on in a cluster."""

import asyncio

import pytest

from odradek.client import Client
from odradek.protocol.errors import InvalidReplicationFactorError
from tests.cluster.traffic import DEADLINE_S, PARTITIONS, new_topic, unique

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]


async def test_what_changes_nothing_is_answered_at_once(client: Client) -> None:
    topic = await new_topic(client)
    async with client.producer() as producer:
        # Its id is a change of the cluster's state that no client hears of.
        await producer.send(topic, b"")
    async with asyncio.timeout(DEADLINE_S / 2):
        found = await client.admin.create_topic(topic, exist_ok=True)
        await client.admin.alter_config(topic, {"flush": "commit"})
        await client.admin.alter_config(topic, {"flush": "commit"})
        with pytest.raises(InvalidReplicationFactorError):
            await client.admin.create_topic(unique("more"), replication=99)
    assert found.partitions == PARTITIONS
