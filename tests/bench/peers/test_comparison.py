import io
from collections.abc import AsyncIterator
from pathlib import Path

from rich.console import Console

from bench.peers.comparison import ROUNDS, Failed, Measured, compare, table
from bench.peers.system import Durability, Stream
from bench.peers.workloads import Workload
from bench.report import Figure
from tests.bench.peers.fakes import BrokenSystem, MemoryStream, MemorySystem

BOTH = {Durability.CACHE: "as it comes", Durability.COMMIT: "sync always"}


async def fast(_stream: Stream, scale: float) -> AsyncIterator[Figure]:
    yield Figure(workload="produce", value=100 * scale, unit="MB/s")


async def refused(stream: Stream, scale: float) -> AsyncIterator[Figure]:
    assert isinstance(stream, MemoryStream)
    if stream.broker == "B":
        raise ConnectionResetError("the server has gone")
    async for figure in fast(stream, scale):
        yield figure


async def stuck(_stream: Stream, _scale: float) -> AsyncIterator[Figure]:
    yield Figure(workload="first half", value=7, unit="MB/s")
    raise TimeoutError


def everywhere(*workloads: Workload) -> dict[Durability, tuple[Workload, ...]]:
    return dict.fromkeys(Durability, workloads)


def quiet() -> Console:
    return Console(file=io.StringIO())


def figures(results: list[Measured | Failed]) -> list[Measured]:
    return [each for each in results if isinstance(each, Measured)]


def cells(results: list[Measured | Failed], systems: list[MemorySystem]) -> list[list[str]]:
    shown = io.StringIO()
    Console(file=shown, width=120).print(table(results, systems))
    return [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in shown.getvalue().splitlines()
        if line.startswith("│")
    ]


async def test_systems_take_turns_in_every_round() -> None:
    systems = [MemorySystem("A", BOTH, []), MemorySystem("B", BOTH, [])]
    measured = figures([each async for each in compare(systems, 0.5, quiet(), everywhere(fast))])
    cached = [each for each in measured if each.durability == "no fsync"]
    assert [(each.system, each.round) for each in cached] == [
        (name, turn) for turn in range(1, ROUNDS + 1) for name in "AB"
    ]
    assert {(each.value, each.version) for each in measured} == {(50, "1.0")}


async def test_a_system_is_served_only_with_the_durability_it_offers() -> None:
    served: list[tuple[str, Durability, Path]] = []
    never_syncs = MemorySystem("B", {Durability.CACHE: "never fsyncs"}, served)
    systems = [MemorySystem("A", BOTH, served), never_syncs]
    measured = figures([each async for each in compare(systems, 1, quiet(), everywhere(fast))])
    assert [(name, durability) for name, durability, _ in served] == [
        ("A", Durability.CACHE),
        ("B", Durability.CACHE),
        ("A", Durability.COMMIT),
    ]
    assert len({directory for *_, directory in served}) == 3, "each server has its own"
    assert {each.settings for each in measured if each.system == "B"} == {"never fsyncs"}


async def test_the_table_has_a_column_for_each_and_a_dash_for_what_was_not_measured() -> None:
    systems = [MemorySystem("A", BOTH, []), MemorySystem("B", {Durability.CACHE: ""}, [])]
    measured = [each async for each in compare(systems, 1, quiet(), everywhere(fast))]
    assert cells(measured, systems) == [
        ["produce, no fsync", "MB/s", "100 / 100", "100 / 100"],
        ["produce, fsync", "MB/s", "100 / 100", "-"],
    ]


async def test_what_was_measured_before_an_error_is_kept_and_the_others_go_on() -> None:
    said = io.StringIO()
    systems = [MemorySystem("A", BOTH, [])]
    results = [
        each async for each in compare(systems, 1, Console(file=said), everywhere(stuck, fast))
    ]
    measured = {each.workload for each in results if isinstance(each, Measured)}
    failed = {(each.task, each.reason) for each in results if isinstance(each, Failed)}
    assert measured == {"first half", "produce"}
    assert failed == {("stuck", "TimeoutError: ")}
    assert "A, fsync: stuck failed: TimeoutError" in said.getvalue()


async def test_a_client_s_error_is_a_failed_cell_of_its_broker() -> None:
    systems = [MemorySystem("A", BOTH, []), MemorySystem("B", BOTH, [])]
    results = [each async for each in compare(systems, 1, quiet(), everywhere(refused))]
    assert cells(results, systems) == [
        ["produce, no fsync", "MB/s", "100 / 100", "failed / failed"],
        ["produce, fsync", "MB/s", "100 / 100", "failed / failed"],
    ]
    reasons = {str(each) for each in results if isinstance(each, Failed)}
    assert "B, fsync: refused failed: ConnectionResetError: the server has gone" in reasons


async def test_a_server_that_does_not_start_is_told_and_the_others_go_on() -> None:
    systems = [BrokenSystem("A", BOTH, []), MemorySystem("B", BOTH, [])]
    results = [each async for each in compare(systems, 1, quiet(), everywhere(fast))]
    failed = [each for each in results if isinstance(each, Failed)]
    assert [(each.system, each.task, each.round) for each in failed] == [("A", "start", 0)] * 2
    assert cells(results, systems) == [
        ["produce, no fsync", "MB/s", "failed", "100 / 100"],
        ["produce, fsync", "MB/s", "failed", "100 / 100"],
    ]
