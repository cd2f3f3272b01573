"""`odradek cluster`: nodes and controllers."""

from dataclasses import asdict

from rich.text import Text

from odradek.client.administration.descriptions import ControllerDescription, NodeDescription
from odradek.client.cli import output, session

app = session.new_app(help="Look at nodes and controllers.", no_args_is_help=True)


@app.callback()
def cluster() -> None:
    """Look at nodes and controllers."""


@app.command()
def status(
    *,
    bootstrap: session.Bootstrap = session.DEFAULT_BOOTSTRAP,
    as_json: session.Json = False,
) -> None:
    """Show every node and controller, and whether each partition is served."""
    found = session.with_client(bootstrap, lambda client: client.admin.describe_cluster())
    if as_json:
        output.print_json(asdict(found))
        return
    output.print_table(
        {
            "node": True,
            "address": False,
            "rack": False,
            "state": False,
            "leads": True,
            "holds": True,
        },
        (
            (
                node.node_id,
                node.address,
                node.rack,
                _state(node),
                node.leader_count,
                node.replica_count,
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
    output.out().print(
        Text.assemble(
            summary, ", ", (", ".join(trouble), "bold red") if trouble else ("all served", "green")
        )
    )


def _state(node: NodeDescription) -> Text:
    if node.fenced:
        return Text("fenced", style="bold red")
    return Text("draining", style="yellow") if node.draining else Text("serving", style="green")


def _controller_state(controller: ControllerDescription) -> Text:
    if not controller.reachable:
        return Text("unreachable", style="bold red")
    return Text("active", style="green") if controller.active else Text("standing by")
