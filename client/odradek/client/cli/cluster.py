"""`odradek cluster`: nodes and controllers, and what moves between nodes."""

import asyncio
import math
from dataclasses import asdict
from typing import Annotated

import typer
from rich.filesize import decimal
from rich.text import Text

from odradek.client import Client
from odradek.client.administration.descriptions import (
    ClusterDescription,
    ControllerDescription,
    NodeDescription,
    Reassignment,
)
from odradek.client.cli import output, session

app = session.new_app(help="Look at nodes and controllers; empty nodes.")

Node = Annotated[int, typer.Argument(metavar="NODE", show_default=False, help="The node's id.")]

_LOOK_INTERVAL_S = 0.5
_MOVES_SHOWN_MAX = 20
_BAR_WIDTH = 20


@app.callback()
def cluster() -> None:
    """Look at nodes and controllers; empty nodes."""


@app.command()
def status(
    *,
    bootstrap: session.Bootstrap = session.DEFAULT_BOOTSTRAP,
    as_json: session.Json = False,
) -> None:
    """Show every node and controller, whether each partition is served, and how far moves are."""

    async def action(client: Client) -> tuple[ClusterDescription, list[Reassignment]]:
        found = await client.admin.describe_cluster()
        return found, await client.admin.list_reassignments() if found.moving_count else []

    found, moves = session.with_client(bootstrap, action)
    if as_json:
        output.print_json({**asdict(found), "moves": [asdict(move) for move in moves]})
        return
    output.print_table(
        {
            "node": True,
            "address": False,
            "rack": False,
            "state": False,
            "leads": True,
            "holds": True,
            "moving": False,
        },
        (
            (
                node.node_id,
                node.address,
                node.rack,
                _state(node),
                node.leader_count,
                node.replica_count,
                _moving(node),
            )
            for node in sorted(found.nodes, key=lambda node: node.node_id)
        ),
    )
    output.print_table(
        {"controller": True, "address": False, "state": False},
        (
            (
                "?" if controller.controller_id is None else controller.controller_id,
                controller.address,
                _controller_state(controller),
            )
            for controller in found.controllers
        ),
    )
    _print_moves(moves)
    _print_summary(found)


@app.command()
def drain(
    node: Node,
    *,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Let the node have replicas again instead.")
    ] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Return at once; the moves go on by themselves.")
    ] = False,
    bootstrap: session.Bootstrap = session.DEFAULT_BOOTSTRAP,
    as_json: session.Json = False,
) -> None:
    """Move every replica off a node, a few partitions at a time, while all stays in use.

    Interrupting the command does not interrupt the moves; give it again to see how far they are.
    """

    async def action(client: Client) -> int:
        left = await client.admin.drain_node(node, cancel=cancel)
        if cancel or no_wait or not left:
            return left
        await _watch_drain(client, node, left)
        return 0

    left = session.with_client(bootstrap, action)
    if as_json:
        output.print_json({"node": node, "draining": not cancel, "replicas_left": left})
    elif cancel:
        output.note(f"node {node} takes replicas again")
    elif left:
        output.note(f"{output.count_of(left, 'replica')} to move off node {node}")
    else:
        output.note(f"node {node} is empty: stop it, then: odradek cluster remove {node}")


@app.command()
def remove(
    node: Node,
    *,
    bootstrap: session.Bootstrap = session.DEFAULT_BOOTSTRAP,
    as_json: session.Json = False,
) -> None:
    """Forget a node that was drained and has stopped."""
    session.with_client(bootstrap, lambda client: client.admin.remove_node(node))
    if as_json:
        output.print_json({"removed": node})
    else:
        output.note(f"node {node} removed")


async def _watch_drain(client: Client, node_id: int, total: int) -> None:
    """Show how many replicas have left a node until none is there."""
    with output.progress() as progress:
        task = progress.add_task(f"node {node_id}", total=total, rate="")
        while True:
            found = await client.admin.describe_cluster()
            left = sum(each.replica_count for each in found.nodes if each.node_id == node_id)
            moved = max(total - left, 0)
            progress.update(
                task, completed=moved, rate=f"{moved:,} of {output.count_of(total, 'replica')}"
            )
            if not left:
                return
            await asyncio.sleep(_LOOK_INTERVAL_S)


def _print_moves(moves: list[Reassignment]) -> None:
    """Show the replicas on their way, those that lack most first."""
    coming = [(move, each) for move in moves for each in move.progress]
    if not coming:
        return
    coming.sort(key=lambda one: -one[1].missing_bytes)
    output.print_table(
        {"moving": False, "to node": True, "progress": False, "copied": True, "of": True},
        (
            (
                f"{move.topic}-{move.partition.partition}",
                each.node_id,
                f"{_bar(each.share)} {math.floor(each.share * 100):3} %",
                decimal(each.log_bytes - each.missing_bytes),
                decimal(each.log_bytes),
            )
            for move, each in coming[:_MOVES_SHOWN_MAX]
        ),
    )
    if len(coming) > _MOVES_SHOWN_MAX:
        output.note(f"and {output.count_of(len(coming) - _MOVES_SHOWN_MAX, 'replica')} more")


def _bar(share: float) -> str:
    done = math.floor(share * _BAR_WIDTH)
    return "━" * done + "·" * (_BAR_WIDTH - done)


def _print_summary(found: ClusterDescription) -> None:
    summary = (
        f"cluster {found.cluster_id}: {output.count_of(found.topic_count, 'topic')},"
        f" {output.count_of(found.partition_count, 'partition')}"
    )
    trouble = [
        f"{count:,} {what}"
        for count, what in (
            (found.leaderless_count, "without a leader"),
            (found.under_replicated_count, "with replicas out of sync"),
        )
        if count
    ]
    moving = f", {found.moving_count:,} moving" if found.moving_count else ""
    output.show(
        Text.assemble(
            summary,
            ", ",
            (", ".join(trouble), "bold red") if trouble else ("all served", "green"),
            (moving, "yellow"),
        )
    )


def _state(node: NodeDescription) -> Text:
    if node.fenced:
        return Text("fenced", style="bold red")
    words = [
        word
        for word, holds in (
            ("stopping", node.stopping),
            ("draining", node.draining),
            ("disk full", node.storage_full),
            ("store set aside", node.store_set_aside),
        )
        if holds
    ]
    return Text(", ".join(words), style="yellow") if words else Text("serving", style="green")


def _moving(node: NodeDescription) -> str:
    words = [
        f"{count:,} {way}"
        for count, way in ((node.receiving_count, "in"), (node.leaving_count, "out"))
        if count
    ]
    return ", ".join(words)


def _controller_state(controller: ControllerDescription) -> Text:
    if not controller.reachable:
        return Text("unreachable", style="bold red")
    return Text("active", style="green") if controller.active else Text("standing by")
