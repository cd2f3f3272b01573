"""A real small cluster for the tests of a service.

Installed with `odradek[server]`, pytest finds these fixtures by itself:

- `odradek_bootstrap` (session): the address of a running cluster, for `Client(odradek_bootstrap)`.
- `odradek_topic` (function): makes topics of unique names: `topic = odradek_topic(partitions=3)`.
- `odradek_cluster` (session): the cluster itself, whose processes a test may kill and restart.

The cluster starts at the first use, in about a second, and lives until the session ends. Its size
comes from pytest's configuration: `odradek_nodes = 1`, `odradek_controllers = 1`.

Example:
    async def test_orders_are_published(odradek_bootstrap: str, odradek_topic: NewTopic) -> None:
        topic = odradek_topic(partitions=1)
        async with Client(odradek_bootstrap) as client:
            await publish_orders(client, topic)
"""
