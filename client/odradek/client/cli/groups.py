"""`odradek groups`: who reads what, how far; where to go on from; deletion."""

from dataclasses import dataclass
from typing import Annotated

import typer
from rich.text import Text

from odradek.client import Client, TopicPartition
from odradek.client.administration.descriptions import GroupDescription
from odradek.client.cli import output, session
from odradek.client.cli.start_position import parse_start
from odradek.protocol.errors import GroupIdNotFoundError, UnknownTopicOrPartitionError

app = session.new_app(help="Look at consumer groups, reset or delete them.")

Name = Annotated[str, typer.Argument(metavar="GROUP", show_default=False)]


@dataclass(frozen=True, slots=True)
class _Progress:
    """How far a group is in one partition.

    Attributes:
        committed: The next offset it will read; None: it has committed none.
        latest: The log's end; None: nobody leads the partition, or it was deleted.
        member: The client that reads it; empty: nobody.
    """

    partition: TopicPartition
    committed: int | None
    latest: int | None
    member: str

    @property
    def lag(self) -> int | None:
        """How many records are still to be processed; None: unknown."""
        if self.committed is None or self.latest is None:
            return None
        return max(0, self.latest - self.committed)


@app.command(name="list")
def list_groups(
    *,
    bootstrap: session.Bootstrap = session.DEFAULT_BOOTSTRAP,
    as_json: session.Json = False,
) -> None:
    """List consumer groups."""
    groups = session.with_client(bootstrap, lambda client: client.admin.list_groups())
    if as_json:
        output.print_json(
            [
                {"group": each.group, "state": each.state.value, "members": each.member_count}
                for each in groups
            ]
        )
        return
    output.print_table(
        {"group": False, "state": False, "members": True},
        ((each.group, each.state.value, each.member_count) for each in groups),
        empty="no groups yet; a consumer makes one with: odradek consume TOPIC --group NAME",
    )


@app.command()
def describe(
    group: Name,
    *,
    bootstrap: session.Bootstrap = session.DEFAULT_BOOTSTRAP,
    as_json: session.Json = False,
) -> None:
    """Show a group's members, what each reads, and how far it is behind."""
    described, progress = session.with_client(bootstrap, lambda client: _look_at(client, group))
    if as_json:
        output.print_json(_as_json(described, progress))
        return
    output.show(
        f"group {described.group}: {described.state.value}, epoch {described.group_epoch},"
        f" assignor {described.assignor}, coordinated by node {described.coordinator_id}"
    )
    output.print_table(
        {"member": False, "client": False, "host": False, "state": False, "partitions": True},
        (
            (
                member.instance_id or member.member_id,
                member.client_id,
                member.client_host,
                member.state.value,
                len(member.assigned),
            )
            for member in described.members
        ),
        empty="no members",
    )
    output.print_table(
        {
            "topic": False,
            "partition": True,
            "committed": True,
            "latest": True,
            "lag": True,
            "read by": False,
        },
        (
            (
                each.partition.topic,
                each.partition.partition,
                "none" if each.committed is None else each.committed,
                "?" if each.latest is None else each.latest,
                "?" if each.lag is None else _lag(each.lag),
                each.member,
            )
            for each in progress
        ),
    )


@app.command(name="reset-offsets")
def reset_offsets(
    group: Name,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", show_default=False)],
    *,
    to: Annotated[
        str,
        typer.Option(
            metavar="PLACE",
            help="earliest, latest, an offset, a time (2026-01-31T12:00), or an age (-1h).",
        ),
    ],
    partition: Annotated[
        list[int] | None, typer.Option(min=0, help="Only this one; may be repeated.")
    ] = None,
    bootstrap: session.Bootstrap = session.DEFAULT_BOOTSTRAP,
    as_json: session.Json = False,
) -> None:
    """Let a group without running consumers go on from another place, or a new one begin there."""
    place = session.checked(lambda: parse_start(to))

    async def action(client: Client) -> tuple[bool, dict[TopicPartition, int]]:
        is_new = not await _exists(client, group)
        return is_new, await client.admin.reset_offsets(group, topic, place, partitions=partition)

    is_new, committed = session.with_client(bootstrap, action)
    if as_json:
        offsets = [
            {"topic": each.topic, "partition": each.partition, "offset": offset}
            for each, offset in sorted(committed.items())
        ]
        output.print_json({"group": group, "created": is_new, "offsets": offsets})
        return
    output.print_table(
        {"topic": False, "partition": True, "next offset": True},
        ((each.topic, each.partition, offset) for each, offset in sorted(committed.items())),
    )
    if is_new:
        output.note(f"group {group} did not exist; it was created with these offsets")


@app.command()
def delete(
    groups: Annotated[list[str], typer.Argument(metavar="GROUP", show_default=False)],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    bootstrap: session.Bootstrap = session.DEFAULT_BOOTSTRAP,
    as_json: session.Json = False,
) -> None:
    """Delete groups without running consumers, with their offsets."""
    session.confirm(f"Delete {', '.join(groups)} with all offsets?", yes=yes)

    async def action(client: Client) -> None:
        for group in groups:
            await client.admin.delete_group(group)
            if not as_json:
                output.note(f"group {group} deleted")

    session.with_client(bootstrap, action)
    if as_json:
        output.print_json({"deleted": groups})


async def _exists(client: Client, group: str) -> bool:
    try:
        await client.admin.describe_group(group)
    except GroupIdNotFoundError:
        return False
    return True


async def _look_at(client: Client, group: str) -> tuple[GroupDescription, list[_Progress]]:
    described = await client.admin.describe_group(group)
    committed = await client.admin.committed_offsets(group)
    readers = {
        partition: member.client_id for member in described.members for partition in member.assigned
    }
    latest: dict[TopicPartition, int] = {}
    for topic in sorted({each.topic for each in (*committed, *readers)}):
        latest |= await _ends(client, topic)
    progress = []
    for partition in sorted({*committed, *readers}):
        known = committed.get(partition)
        progress.append(
            _Progress(
                partition,
                None if known is None else known.offset,
                latest.get(partition),
                readers.get(partition, ""),
            )
        )
    return described, progress


async def _ends(client: Client, topic: str) -> dict[TopicPartition, int]:
    """Return where the logs end that somebody leads; none of a topic that was deleted."""
    try:
        described = await client.admin.describe_topic(topic)
    except UnknownTopicOrPartitionError:
        return {}
    led = [each.partition for each in described.partitions if each.leader is not None]
    return await client.admin.list_offsets(topic, partitions=led)


def _lag(records: int) -> Text:
    return Text(f"{records:,}", style="yellow" if records else "green")


def _as_json(described: GroupDescription, progress: list[_Progress]) -> dict[str, object]:
    return {
        "group": described.group,
        "state": described.state.value,
        "group_epoch": described.group_epoch,
        "assignor": described.assignor,
        "coordinator": described.coordinator_id,
        "members": [
            {
                "member_id": member.member_id,
                "instance_id": member.instance_id,
                "client_id": member.client_id,
                "host": member.client_host,
                "state": member.state.value,
                "epoch": member.member_epoch,
                "assigned": [str(each) for each in member.assigned],
            }
            for member in described.members
        ],
        "offsets": [
            {
                "topic": each.partition.topic,
                "partition": each.partition.partition,
                "committed": each.committed,
                "latest": each.latest,
                "lag": each.lag,
                "client_id": each.member or None,
            }
            for each in progress
        ],
    }
