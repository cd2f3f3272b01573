"""`odradek topics`: create, list, describe, alter, delete."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from odradek.client import Client, TopicPartition
from odradek.client.administration.descriptions import ConfigEntry, TopicDescription
from odradek.client.cli import output, session
from odradek.client.cli.record_format import parse_settings
from odradek.protocol.errors import TopicAlreadyExistsError

app = session.new_app(help="Create, list, describe, alter and delete topics.")

Name = Annotated[str, typer.Argument(metavar="TOPIC", show_default=False)]
Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--config", "-c", metavar="KEY=VALUE", help="A setting such as flush=os; may be repeated."
    ),
]


@app.command()
def create(
    topic: Name,
    *,
    partitions: Annotated[
        int | None,
        typer.Option("--partitions", "-p", help="How many.", show_default="the cluster's: 6"),
    ] = None,
    replication: Annotated[
        int | None, typer.Option(help="Replicas of each partition.", show_default="the cluster's")
    ] = None,
    config: Setting = None,
    if_not_exists: Annotated[
        bool, typer.Option("--if-not-exists", help="Accept a topic that is there already.")
    ] = False,
    bootstrap: session.Bootstrap = session.DEFAULT_BOOTSTRAP,
    as_json: session.Json = False,
) -> None:
    """Create a topic."""
    settings = session.checked(lambda: parse_settings(config or []))

    async def action(client: Client) -> bool:
        try:
            await client.admin.create_topic(
                topic, partitions=partitions, replication=replication, config=settings
            )
        except TopicAlreadyExistsError:
            if not if_not_exists:
                raise
            return False
        return True

    created = session.with_client(bootstrap, action)
    if as_json:
        output.print_json({"topic": topic, "created": created})
    else:
        output.note(f"topic {topic} {'created' if created else 'is there already'}")


@app.command(name="list")
def list_topics(
    *,
    internal: Annotated[bool, typer.Option("--internal", help="Odradek's own as well.")] = False,
    bootstrap: session.Bootstrap = session.DEFAULT_BOOTSTRAP,
    as_json: session.Json = False,
) -> None:
    """List topics."""
    topics = session.with_client(
        bootstrap, lambda client: client.admin.list_topics(include_internal=internal)
    )
    if as_json:
        output.print_json(
            [
                {
                    "topic": topic.name,
                    "topic_id": topic.topic_id,
                    "partitions": topic.partitions,
                    "replication": topic.replication,
                    "internal": topic.internal,
                }
                for topic in topics
            ]
        )
        return
    output.print_table(
        {"topic": False, "partitions": True, "replication": True},
        ((topic.name, topic.partitions, topic.replication) for topic in topics),
        empty="no topics yet; make one with: odradek topics create NAME",
    )


@app.command()
def describe(
    topic: Name,
    *,
    bootstrap: session.Bootstrap = session.DEFAULT_BOOTSTRAP,
    as_json: session.Json = False,
) -> None:
    """Show a topic's partitions, who leads them, what they hold, and its settings."""
    described, settings, earliest, latest = session.with_client(
        bootstrap, lambda client: _look_at(client, topic)
    )
    if as_json:
        output.print_json(_as_json(described, settings, earliest, latest))
        return
    output.print_table(
        {
            "partition": True,
            "leader": True,
            "epoch": True,
            "replicas": False,
            "in sync": False,
            "earliest": True,
            "latest": True,
        },
        (
            (
                each.partition,
                Text("none", style="bold red") if each.leader is None else each.leader,
                each.leader_epoch,
                ", ".join(map(str, each.replicas)),
                ", ".join(map(str, each.isr)),
                earliest.get(each.partition, "?"),
                latest.get(each.partition, "?"),
            )
            for each in described.partitions
        ),
    )
    output.print_table(
        {"setting": False, "value": False, "": False, "meaning": False},
        (
            (each.key, each.value, "" if each.is_default else "changed", each.documentation)
            for each in settings
        ),
    )


@app.command()
def alter(
    topic: Name,
    *,
    partitions: Annotated[
        int | None, typer.Option("--partitions", "-p", help="How many there should be; only more.")
    ] = None,
    replication: Annotated[
        int | None, typer.Option(help="How many replicas each partition should have.")
    ] = None,
    config: Setting = None,
    unset: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Return a setting to its default; may be repeated."),
    ] = None,
    bootstrap: session.Bootstrap = session.DEFAULT_BOOTSTRAP,
    as_json: session.Json = False,
) -> None:
    """Add partitions to a topic, change its replication, or its settings.

    New replicas are filled while the topic is in use; `odradek cluster status` shows what is left.
    """
    changes: dict[str, str | None] = dict.fromkeys(unset or [])
    changes.update(session.checked(lambda: parse_settings(config or [])))
    if partitions is None and replication is None and not changes:
        raise typer.BadParameter(
            "nothing to alter: give --partitions, --replication, --config or --unset"
        )

    async def action(client: Client) -> None:
        if changes:
            await client.admin.alter_config(topic, changes)
        if partitions is not None:
            await client.admin.create_partitions(topic, partitions)
        if replication is not None:
            await client.admin.alter_replication(topic, replication)

    session.with_client(bootstrap, action)
    if as_json:
        output.print_json(
            {
                "topic": topic,
                "partitions": partitions,
                "replication": replication,
                "config": changes,
            }
        )
    else:
        output.note(f"topic {topic} altered")


@app.command()
def delete(
    topics: Annotated[list[str], typer.Argument(metavar="TOPIC", show_default=False)],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    bootstrap: session.Bootstrap = session.DEFAULT_BOOTSTRAP,
    as_json: session.Json = False,
) -> None:
    """Delete topics with all their records."""
    session.confirm(f"Delete {', '.join(topics)} with all records?", yes=yes)

    async def action(client: Client) -> None:
        for topic in topics:
            await client.admin.delete_topic(topic)
            if not as_json:
                output.note(f"topic {topic} deleted")

    session.with_client(bootstrap, action)
    if as_json:
        output.print_json({"deleted": topics})


Ends = dict[int, int]
"""Partition to offset; partitions that nobody leads are missing."""


async def _look_at(
    client: Client, topic: str
) -> tuple[TopicDescription, list[ConfigEntry], Ends, Ends]:
    described = await client.admin.describe_topic(topic)
    led = [each.partition for each in described.partitions if each.leader is not None]
    settings, earliest, latest = await asyncio.gather(
        client.admin.describe_config(topic),
        client.admin.list_offsets(topic, "earliest", partitions=led),
        client.admin.list_offsets(topic, "latest", partitions=led),
    )
    return described, settings, _by_index(earliest), _by_index(latest)


def _by_index(offsets: Mapping[TopicPartition, int]) -> Ends:
    return {partition.partition: offset for partition, offset in offsets.items()}


def _as_json(
    described: TopicDescription, settings: list[ConfigEntry], earliest: Ends, latest: Ends
) -> dict[str, object]:
    return {
        "topic": described.name,
        "topic_id": described.topic_id,
        "replication": described.replication,
        "partitions": [
            {
                "partition": each.partition,
                "leader": each.leader,
                "leader_epoch": each.leader_epoch,
                "replicas": each.replicas,
                "isr": each.isr,
                "earliest": earliest.get(each.partition),
                "latest": latest.get(each.partition),
            }
            for each in described.partitions
        ],
        "config": [asdict(each) for each in settings],
    }
