"""`odradek dev`: a whole cluster on this machine, until Ctrl-C."""

import asyncio
import signal
import socket
from pathlib import Path
from typing import Annotated

import typer
from rich.panel import Panel

from odradek.client.cli import output, session
from odradek.client.cli.exits import EXIT_CODES_HELP
from odradek.client.local.cluster import LocalCluster, LocalProcess, LocalProcessError

app = session.new_app()

_PREFERRED_PORT = 7070


@app.command(epilog=EXIT_CODES_HELP)
def dev(
    *,
    nodes: Annotated[int, typer.Option(min=1, max=32, help="How many nodes.")] = 3,
    controllers: Annotated[int, typer.Option(help="How many controllers: 1, 3 or 5.")] = 3,
    data: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            resolve_path=True,
            help="Keep data and logs here. Default: a temporary directory.",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help=f"The first node's port. Default: {_PREFERRED_PORT}, or any when that is taken.",
        ),
    ] = None,
) -> None:
    """Run a whole cluster on this machine until Ctrl-C: real controllers and nodes on loopback.

    Ctrl-C, SIGTERM or a closed terminal stops it cleanly: exit status 0.
    """
    if controllers not in {1, 3, 5}:
        raise typer.BadParameter("use 1, 3 or 5", param_hint="--controllers")
    first_port = _free_port(_PREFERRED_PORT) if port is None else port
    session.run(_serve(nodes, controllers, data, first_port))


async def _serve(nodes: int, controllers: int, data: Path | None, port: int) -> None:
    async with session.interruption() as heard:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, heard.hear)
        cluster = LocalCluster(
            nodes=nodes,
            controllers=controllers,
            data_directory=data,
            port=port,
        )
        with output.err().status(f"Starting {controllers} controllers and {nodes} nodes"):
            started = await session.unless_interrupted(heard, cluster.__aenter__())
        if started is None:
            return
        try:
            _welcome(cluster, kept=data is not None)
            await session.unless_interrupted(heard, _watch(cluster))
        finally:
            output.note("Stopping the cluster ...")
            await cluster.__aexit__(None, None, None)


async def _watch(cluster: LocalCluster) -> None:
    """Report processes that end by themselves (or are killed, to see what happens).

    Raises:
        LocalProcessError: None is left.
    """
    processes = (*cluster.controllers.values(), *cluster.nodes.values())
    await asyncio.gather(*map(_report_end, processes))
    raise LocalProcessError("every process of the cluster has ended")


async def _report_end(process: LocalProcess) -> None:
    status = await process.wait()
    output.failure(f"{process.name} ended with exit status {status}. {process.log_tail()}")


def _welcome(cluster: LocalCluster, *, kept: bool) -> None:
    first = cluster.nodes[1].address
    here = first == f"127.0.0.1:{_PREFERRED_PORT}"
    option = "" if here else f" -b {first}"
    where = str(cluster.data_directory) + ("" if kept else " (removed at the end)")
    lines = [
        f"bootstrap  {cluster.bootstrap}",
        f"data       {where}",
        "",
        "In another terminal:",
        f"  odradek topics create t --partitions 6{option}",
        f"  echo 'van-1:hello' | odradek produce t --key-separator :{option}",
        f"  odradek consume t{option}",
        f"  odradek cluster status{option}",
        *_dare(cluster),
        "",
        "Ctrl-C stops the cluster.",
    ]
    title = f"{len(cluster.controllers)} controllers and {len(cluster.nodes)} nodes are serving"
    output.show(Panel("\n".join(lines), title=title, expand=False))


def _dare(cluster: LocalCluster) -> list[str]:
    """Return how to kill a node, where others can carry on."""
    *others, last = cluster.nodes
    return (
        [f"  kill -9 {cluster.nodes[last].pid}  # node {last}: the others go on"] if others else []
    )


def _free_port(preferred: int) -> int:
    """Return the preferred port when nobody listens there, else 0: any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            output.note(f"port {preferred} is taken; using another")
            return 0
    return preferred
