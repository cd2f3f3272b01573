"""What `odradek` prints about topics and groups: every table, and JSON, by their content."""

import asyncio

import pytest

from odradek.client import Client
from odradek.client.local.cluster import LocalCluster
from tests.cluster.shell import Shell
from tests.cluster.traffic import DEADLINE_S, unique

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]


async def filled_topic(client: Client, *, partitions: int, records: int) -> str:
    """A topic whose leaders cannot move: of one replica; with records in its last partition."""
    topic = unique("shown")
    await client.admin.create_topic(
        topic, partitions=partitions, replication=1, config={"flush": "os"}
    )
    async with client.producer() as producer:
        for number in range(records):
            await producer.send(topic, b"%d" % number, partition=partitions - 1)
    return topic


async def test_a_topic_s_tables(odradek: Shell, client: Client) -> None:
    topic = await filled_topic(client, partitions=2, records=3)
    shown = await odradek("topics", "describe", topic)
    heading, first, second, settings_heading, *settings = shown.rows
    assert heading == [
        "partition",
        "leader",
        "epoch",
        "replicas",
        "in",
        "sync",
        "earliest",
        "latest",
    ]
    for each, row, latest in zip(
        (await client.admin.describe_topic(topic)).partitions, (first, second), "03", strict=True
    ):
        (replica,) = each.replicas
        assert row == [
            *map(str, (each.partition, replica, each.leader_epoch)),
            *2 * [f"{replica}"],
            "0",
            latest,
        ]
    assert settings_heading == ["setting", "value", "meaning"]
    said = {key: " ".join(rest) for key, *rest in settings}
    assert list(said) == [each.key for each in await client.admin.describe_config(topic)]
    assert said["flush"].startswith("os changed What an acknowledgement promises")
    assert said["retention.ms"].startswith("604800000 How long")


async def test_topics_are_listed_and_deleted(odradek: Shell, client: Client) -> None:
    one, two = [await filled_topic(client, partitions=count, records=0) for count in (1, 2)]
    await client.admin.reset_offsets(unique("group"), one, "earliest")  # somebody has committed
    listed, everything, as_json = await asyncio.gather(
        odradek("topics", "list"),
        odradek("topics", "list", "--internal"),
        odradek("topics", "list", "--internal", "--json"),
    )
    heading, *topics = listed.rows
    assert heading == ["topic", "partitions", "replication"]
    assert [row for row in topics if row[0] in {one, two}] == sorted(
        [[one, "1", "1"], [two, "2", "1"]]
    )
    internal = [row[0] for row in everything.rows if row not in listed.rows]
    assert "__consumer_offsets" in internal
    assert not {one, two} & set(internal)
    assert [each["topic"] for each in as_json.json if each["internal"]] == internal
    deleted = await odradek("topics", "delete", one, two, "--yes", "--json")
    assert (deleted.status, deleted.json, deleted.err) == (0, {"deleted": [one, two]}, "")
    assert not {one, two} & {each.name for each in await client.admin.list_topics()}


async def test_a_group_s_tables(cluster: LocalCluster, odradek: Shell, client: Client) -> None:
    topic, group = await filled_topic(client, partitions=1, records=3), unique("shown")
    async with (
        Client(cluster.bootstrap, client_id="reader-7") as reading,
        reading.consumer(topic, group=group, instance_id="van-7", auto_commit=False) as consumer,
    ):
        async with asyncio.timeout(DEADLINE_S):
            await anext(consumer)
        await consumer.commit({(topic, 0): 1})
        known = await client.admin.describe_group(group)
        title, member_heading, member, heading, progress = (
            await odradek("groups", "describe", group)
        ).rows
    assert " ".join(title) == (
        f"group {group}: stable, epoch {known.group_epoch}, assignor {known.assignor},"
        f" coordinated by node {known.coordinator_id}"
    )
    assert member_heading == ["member", "client", "host", "state", "partitions"]
    assert member == ["van-7", "reader-7", known.members[0].client_host, "stable", "1"]
    assert heading == ["topic", "partition", "committed", "latest", "lag", "read", "by"]
    assert progress == [topic, "0", "1", "3", "2", "reader-7"]


async def test_a_group_that_a_reset_creates_is_told(odradek: Shell, client: Client) -> None:
    topic, one, two = await filled_topic(client, partitions=1, records=3), unique("a"), unique("b")
    made = await odradek("groups", "reset-offsets", one, topic, "--to", "1")
    assert made.rows[1:] == [[topic, "0", "1"]]
    assert made.err == f"group {one} did not exist; it was created with these offsets\n"
    as_json = await odradek("groups", "reset-offsets", two, topic, "--to", "1", "--json")
    assert (as_json.json["created"], as_json.err) == (True, "")


async def test_groups_are_listed_moved_and_deleted(odradek: Shell, client: Client) -> None:
    topic = await filled_topic(client, partitions=2, records=3)
    one, two = sorted([unique("shown"), unique("shown")])
    for group in (one, two):
        await client.admin.reset_offsets(group, topic, "latest")
    moved = await odradek("groups", "reset-offsets", one, topic, "--to", "earliest")
    assert moved.rows == [
        ["topic", "partition", "next", "offset"],
        [topic, "0", "0"],
        [topic, "1", "0"],
    ]
    only = await odradek("groups", "reset-offsets", one, topic, "--to", "2", "--partition", "1")
    assert only.rows[1:] == [[topic, "1", "2"]]
    assert (moved.err, only.err) == ("", "")
    listed, described = await asyncio.gather(
        odradek("groups", "list", "--json"), odradek("groups", "describe", one)
    )
    assert [each for each in listed.json if each["group"] in {one, two}] == [
        {"group": group, "state": "empty", "members": 0} for group in (one, two)
    ]
    assert described.err == "no members\n"
    assert described.rows[-2:] == [[topic, "0", "0", "0", "0"], [topic, "1", "2", "3", "1"]]
    deleted = await odradek("groups", "delete", one, two, "--yes", "--json")
    assert (deleted.status, deleted.json, deleted.err) == (0, {"deleted": [one, two]}, "")
    assert not {one, two} & {each.group for each in await client.admin.list_groups()}
