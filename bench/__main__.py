"""`python -m bench [WORKLOAD ...] [--scale 0.1]`: measure, print a table, keep JSON."""

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable

from rich.console import Console

from bench import failover, latency, lifecycle, partitions, report, throughput
from bench.stage import Stage, stage

Workload = Callable[[Stage], AsyncIterator[report.Figure]]

WORKLOADS: dict[str, Workload] = {
    "idle": lifecycle.idle,
    "latency": latency.end_to_end,
    "produce-kib-os": throughput.produce_kib_os,
    "produce-kib-commit": throughput.produce_kib_commit,
    "produce-100-send-many": throughput.produce_100_send_many,
    "produce-100-send": throughput.produce_100_send,
    "consume": throughput.consume_kib,
    "produce-sustained": throughput.produce_sustained,
    "restart": lifecycle.restart,
    "produce-kib-r3": throughput.produce_kib_replicated,
    "latency-r3": latency.end_to_end,
    "partitions-r3": partitions.a_thousand,
    "failover-r3": failover.node_killed,
    "failover-r3-controller": failover.node_and_controller_killed,
}
NODES = {name: 3 for name in WORKLOADS if "-r3" in name}
CONTROLLERS = {"failover-r3-controller": 3}


async def measure(names: list[str], scale: float) -> list[report.Figure]:
    """Run workloads one after the other, each on a fresh cluster."""
    console = Console(stderr=True, highlight=False)
    figures = []
    for name in names:
        nodes, controllers = NODES.get(name, 1), CONTROLLERS.get(name, 1)
        async with stage(scale, nodes=nodes, controllers=controllers) as fresh:
            async for figure in WORKLOADS[name](fresh):
                runs = f" ({figure.span})" if figure.runs else ""
                line = f"{figure.workload}: {figure.value:,.2f} {figure.unit}{runs}"
                console.print(line, soft_wrap=True)
                figures.append(figure)
    return figures


def main() -> None:
    """Read the arguments, measure, report."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=", ".join(WORKLOADS))
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of each workload to run")
    arguments = parser.parse_args()
    if unknown := set(arguments.workloads) - WORKLOADS.keys():
        parser.error(f"unknown workload {', '.join(unknown)}; known are {', '.join(WORKLOADS)}")
    figures = asyncio.run(measure(arguments.workloads or list(WORKLOADS), arguments.scale))
    report.show(figures)
    Console(stderr=True).print(f"kept in {report.save(figures)}", soft_wrap=True)


if __name__ == "__main__":
    main()
