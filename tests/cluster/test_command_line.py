"""The command `odradek` against a real cluster, as a shell uses it."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from odradek.client import Client
from odradek.client.local.cluster import LocalCluster
from tests.cluster.shell import COMMAND, Shell
from tests.cluster.traffic import DEADLINE_S, new_topic, unique

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]


async def test_a_topic_s_life(odradek: Shell) -> None:
    topic = unique("cli")
    assert (await odradek("topics", "create", topic, "-p", "2", "-c", "flush=os")).status == 0
    again = await odradek("topics", "create", topic)
    assert again.status == 1
    assert "--if-not-exists" in again.err
    assert (await odradek("topics", "create", topic, "--if-not-exists")).status == 0
    assert topic in (await odradek("topics", "list")).out
    altered = await odradek("topics", "alter", topic, "-p", "3", "--unset", "flush", "--json")
    assert altered.json == {
        "topic": topic,
        "partitions": 3,
        "replication": None,
        "config": {"flush": None},
    }
    described = (await odradek("topics", "describe", topic, "--json")).json
    assert [each["latest"] for each in described["partitions"]] == [0, 0, 0]
    assert {each["key"]: each["value"] for each in described["config"]}["flush"] == "commit"
    mistyped = await odradek("topics", "describe", topic[:-1])
    assert mistyped.status == 3
    assert topic in mistyped.err
    unconfirmed = await odradek("topics", "delete", topic)
    assert unconfirmed.status == 2
    assert "--yes" in unconfirmed.err
    assert (await odradek("topics", "delete", topic, "--yes")).status == 0
    assert (await odradek("topics", "describe", topic)).status == 3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("topics", "create", "a b"), "a b"),
        (("topics", "create", "t", "--partitions", "0"), "0 partitions"),
        (("topics", "create", "t", "--partitions", "100000"), "10000"),
        (("topics", "create", "t", "--config", "flsh=os"), "flush"),
        (
            ("topics", "create", "t", "-c", "a=1", "-c", "b=2"),
            "setting 'a'; unknown topic setting 'b'",
        ),
        (("topics", "describe", "caf\udce9"), "'caf\\udce9' cannot be written as utf-8"),
        (("produce", "t", "--header", "name=caf\udce9"), "udce9"),
        (("consume", "t", "--group", "g", "--from", "12"), "reset-offsets"),
        (("consume", "t", "--group", "g", "--partition", "1"), "leave out"),
    ],
)
async def test_illegal_values_are_named(
    odradek: Shell, arguments: tuple[str, ...], named: str
) -> None:
    refused = await odradek(*arguments)
    assert refused.status == 2
    assert named in refused.err


async def test_lines_go_in_and_come_out(odradek: Shell, client: Client, tmp_path: Path) -> None:
    topic = await new_topic(client)
    sent = await odradek(
        *("produce", topic, "--key-separator", ":", "-H", "unit=m", "--compression", "zstd"),
        stdin=b"van-1:hello\nvan-2:w:rld\n",
    )
    assert (sent.status, sent.err) == (0, "2 records acknowledged\n")
    file = tmp_path / "lines"
    file.write_bytes(b"from\na file")
    counted = await odradek("produce", topic, str(file), "--partition", "3", "--json")
    assert counted.json == {"topic": topic, "records": 2, "interrupted": False}
    shown = await odradek("consume", topic, "--exit-at-end", "-f", "{key}={value} {headers}")
    assert sorted(shown.out.splitlines()) == [
        "=a file ",
        "=from ",
        "van-1=hello unit=m",
        "van-2=w:rld unit=m",
    ]
    one = await odradek("consume", topic, "-p", "3", "--from", "1", "--max", "1", "--json")
    assert (one.json["partition"], one.json["offset"], one.json["value"]) == (3, 1, "a file")
    late = await odradek("consume", topic, "--from", "latest", "--exit-at-end")
    assert (late.status, late.out) == (0, "")


async def test_a_bad_line_is_named_and_what_came_before_is_kept(
    odradek: Shell, client: Client
) -> None:
    topic = await new_topic(client)
    refused = await odradek("produce", topic, "-s", ":", stdin=b"a:1\nnone\nb:2\n")
    assert refused.status == 1
    assert "line 2" in refused.err
    shown = await odradek("consume", topic, "--exit-at-end")
    assert shown.out == "1\n"


async def test_a_group_goes_on_where_it_stopped(odradek: Shell, client: Client) -> None:
    topic, group = await new_topic(client, partitions=1), unique("cli")
    await odradek("produce", topic, stdin=b"1\n2\n3\n4\n")
    first = await odradek("consume", topic, "-g", group, "--max", "2")
    rest = await odradek("consume", topic, "-g", group, "--exit-at-end")
    assert (first.out, rest.out) == ("1\n2\n", "3\n4\n")
    described = (await odradek("groups", "describe", group, "--json")).json
    assert described["state"] == "empty"
    assert [(each["committed"], each["lag"]) for each in described["offsets"]] == [(4, 0)]
    moved = await odradek("groups", "reset-offsets", group, topic, "--to", "3", "--json")
    offsets = [{"topic": topic, "partition": 0, "offset": 3}]
    assert moved.json == {"group": group, "created": False, "offsets": offsets}
    assert (await odradek("consume", topic, "-g", group, "--max", "1")).out == "4\n"
    assert group in (await odradek("groups", "list")).out
    mistyped = await odradek("groups", "describe", group[:-1])
    assert (mistyped.status, f"did you mean {group!r}" in mistyped.err) == (3, True)
    assert (await odradek("groups", "delete", group, "--yes")).status == 0
    unknown = await odradek("groups", "describe", "like-no-other")
    assert (unknown.status, "groups list" in unknown.err) == (3, True)


async def test_a_member_without_partitions_ends_when_the_others_are_at_the_end(
    odradek: Shell, client: Client
) -> None:
    topic, group = await new_topic(client, partitions=1), unique("cli")
    await odradek("produce", topic, stdin=b"1\n2\n3\n")
    async with client.consumer(topic, group=group, auto_commit=False) as other:
        assert [(await anext(other)).offset for _ in range(2)] == [0, 1]
        waiting = asyncio.ensure_future(odradek("consume", topic, "-g", group, "--exit-at-end"))
        async with asyncio.timeout(DEADLINE_S):
            while True:
                if len((await client.admin.describe_group(group)).members) == 2:
                    break
                await asyncio.sleep(0.05)
        assert not waiting.done(), "the last record was shown by nobody"
        assert (await anext(other)).offset == 2
        await other.commit({(topic, 0): 3})
        ended = await waiting
    assert (ended.status, ended.out) == (0, "")


async def test_partitions_added_later_are_shown_too(odradek: Shell, client: Client) -> None:
    topic = await new_topic(client, partitions=1)
    await odradek("produce", topic, stdin=b"first\n")
    live = await odradek.start("consume", topic)
    assert live.stdout is not None
    assert await asyncio.wait_for(live.stdout.readline(), DEADLINE_S) == b"first\n"
    await client.admin.create_partitions(topic, 4)
    async with client.producer() as producer:
        await producer.send(topic, b"there", partition=3)
    assert await asyncio.wait_for(live.stdout.readline(), DEADLINE_S) == b"there\n"
    live.send_signal(signal.SIGINT)
    await asyncio.wait_for(live.communicate(), DEADLINE_S)
    assert live.returncode == 130


async def test_ctrl_c_leaves_the_group_and_says_so(odradek: Shell, client: Client) -> None:
    topic, group = await new_topic(client, partitions=1), unique("cli")
    await odradek("produce", topic, stdin=b"here\n")
    live = await odradek.start("consume", topic, "-g", group)
    assert live.stdout is not None
    assert await asyncio.wait_for(live.stdout.readline(), DEADLINE_S) == b"here\n"
    busy = await odradek("groups", "delete", group, "--yes")
    assert (busy.status, "Stop its consumers" in busy.err) == (1, True)
    live.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(live.communicate(), DEADLINE_S)
    assert live.returncode == 130
    assert b"Traceback" not in err
    described = (await odradek("groups", "describe", group, "--json")).json
    assert (described["members"], described["offsets"][0]["committed"]) == ([], 1)


async def test_ctrl_c_leaves_though_nobody_reads_what_is_shown(
    cluster: LocalCluster, odradek: Shell, client: Client
) -> None:
    topic = await new_topic(client, partitions=1)
    await odradek("produce", topic, stdin=b"more than a pipe takes\n" * 50_000)
    reading, writing = os.pipe()
    live = await asyncio.create_subprocess_exec(
        *COMMAND, "consume", topic, "-b", cluster.bootstrap, stdout=writing
    )
    os.close(writing)
    assert await asyncio.to_thread(os.read, reading, 10) == b"more than "
    live.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(live.wait(), DEADLINE_S) == 130
    os.close(reading)


async def test_ctrl_c_delivers_what_was_read(odradek: Shell, client: Client) -> None:
    topic = await new_topic(client, partitions=1)
    typing = await odradek.start("produce", topic)
    assert typing.stdin is not None
    typing.stdin.write(b"one\ntwo\n")
    await typing.stdin.drain()
    async with asyncio.timeout(DEADLINE_S), client.consumer() as consumer:
        consumer.assign([(topic, 0)])
        assert [(await anext(consumer)).value for _ in range(2)] == [b"one", b"two"]
    typing.send_signal(signal.SIGINT)
    await asyncio.wait_for(typing.wait(), DEADLINE_S)
    assert typing.returncode == 130
    assert typing.stderr is not None
    assert b"2 records acknowledged" in await typing.stderr.read()
    typing.stdin.close()


async def test_a_reader_that_leaves_early_is_no_error(
    cluster: LocalCluster, odradek: Shell, client: Client
) -> None:
    topic = await new_topic(client, partitions=1)
    await odradek("produce", topic, stdin=b"line\n" * 50_000)
    command = " ".join([*COMMAND, "consume", topic, "-b", cluster.bootstrap])
    piped = await asyncio.create_subprocess_exec(
        *("bash", "-o", "pipefail", "-c", f"{command} | head -n 1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert await asyncio.wait_for(piped.communicate(), DEADLINE_S) == (b"line\n", b"")
    assert piped.returncode == 0


async def test_the_cluster_s_state(odradek: Shell) -> None:
    shown = await odradek("cluster", "status")
    assert "all served" in shown.out
    found = (await odradek("cluster", "status", "--json")).json
    assert [node["fenced"] for node in found["nodes"]] == [False] * 3
    assert sum(controller["active"] for controller in found["controllers"]) == 1


async def test_a_short_benchmark(odradek: Shell) -> None:
    measured = await odradek("bench", "--records", "2000", "--size", "100", "--json")
    assert [each["direction"] for each in measured.json] == ["produce", "consume"]
    assert not [name for name in (await odradek("topics", "list")).out.split() if "bench" in name]
