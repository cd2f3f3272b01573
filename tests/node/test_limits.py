"""What a node makes of noise on its port, of a crowd at its door, and of a full disk."""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from odradek.node.storage import StorageOptions, StoreOptions
from odradek.protocol.record_batch import split
from odradek.rpc.channels import open_channel
from odradek.v1 import error_pb2, metadata_pb2, metadata_pb2_grpc
from tests.node.fake_controller import FakeController
from tests.node.running import FetchClient, ProduceClient, RunningNode, batch, running_node

MIB = 1 << 20
TMPFS_BYTES = 512 * MIB
_RECOVERING = {
    error_pb2.ERROR_CODE_STORAGE_FULL,
    # Logs that may have lost their ends begin a new leader epoch.
    error_pb2.ERROR_CODE_LEADER_NOT_AVAILABLE,
    error_pb2.ERROR_CODE_NOT_LEADER_OR_FOLLOWER,
}


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes(range(256)) * 64,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff",
    ],
    ids=["http/1", "bytes", "half of http/2"],
)
async def test_garbage_on_the_port_hurts_nobody(
    node: RunningNode, controller: FakeController, noise: bytes
) -> None:
    topic = controller.add_topic("t")
    await node.knows(controller)
    producer = ProduceClient(node.channel)
    assert (await producer.produce(topic, batch())).base_offset == 0
    host, port = node.address.split(":")
    for _ in range(20):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(noise)
        writer.close()
    assert (await producer.produce(topic, batch())).base_offset == 1


async def test_connections_beyond_the_limit_leave_the_others_working(
    tmp_path: Path, controller: FakeController
) -> None:
    async with running_node(tmp_path, controller, connections_max=20) as node:
        topic = controller.add_topic("t")
        await node.knows(controller)
        producer = ProduceClient(node.channel)
        assert (await producer.produce(topic, batch())).base_offset == 0
        crowd = [_dial(node.address) for _ in range(100)]
        try:
            for offset in range(1, 20):
                assert (await producer.produce(topic, batch())).base_offset == offset
        finally:
            for connection in crowd:
                connection.close()
        async with asyncio.timeout(10):
            while not await _answers(node.address):
                pass


def _dial(address: str) -> socket.socket:
    host, port = address.split(":")
    connection = socket.create_connection((host, int(port)))
    connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
    return connection


async def _answers(address: str) -> bool:
    async with open_channel(address) as channel:
        metadata = metadata_pb2_grpc.MetadataServiceStub(channel)
        try:
            await metadata.GetMetadata(metadata_pb2.GetMetadataRequest(), timeout=1)
        except grpc.aio.AioRpcError:
            return False
        return True


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    mount = tmp_path / "disk"
    mount.mkdir()
    options = f"size={TMPFS_BYTES}"
    mounted = subprocess.run(
        [shutil.which("mount") or "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mount)],
        check=False,
        capture_output=True,
    )
    assert mounted.returncode == 0, f"these tests need root to mount a tmpfs: {mounted.stderr!r}"
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


@pytest.fixture(params=[32 * MIB, 0], ids=["with a reserve", "to the last byte"])
async def cramped(
    small_disk: Path, controller: FakeController, request: pytest.FixtureRequest
) -> AsyncIterator[RunningNode]:
    """A node on a disk that is soon full."""
    store = StoreOptions(memtable_bytes=4 * MIB)
    options = StorageOptions(reserve_bytes=request.param, store=store)
    async with running_node(small_disk / "data", controller, options=options) as node:
        yield node


async def test_a_full_disk_refuses_writes_serves_reads_and_recovers(
    cramped: RunningNode, controller: FakeController, small_disk: Path
) -> None:
    topic = controller.add_topic("t")
    await cramped.knows(controller)
    producer = ProduceClient(cramped.channel)
    large = batch(value=bytes(MIB // 2))
    acknowledged = 0
    async with asyncio.timeout(60):
        while not (result := await producer.produce(topic, large)).error.code:
            acknowledged += 1
    assert result.error.code == error_pb2.ERROR_CODE_STORAGE_FULL
    assert acknowledged > 10
    ballast = small_disk / "ballast"
    _fill(ballast, small_disk)
    async with asyncio.timeout(1):
        # The store may just have given back a log file it needed no more.
        while not (result := await producer.produce(topic, large)).error.code:
            acknowledged += 1
    assert result.error.code == error_pb2.ERROR_CODE_STORAGE_FULL
    assert await _read_count(cramped, topic) == acknowledged
    ballast.unlink()
    _grow(small_disk)
    async with asyncio.timeout(5):
        while (result := await producer.produce(topic, batch())).error.code:
            assert result.error.code in _RECOVERING
    assert result.base_offset == acknowledged
    assert await _read_count(cramped, topic) == acknowledged + 1


def _fill(ballast: Path, disk: Path) -> None:
    room = shutil.disk_usage(disk).free
    # Full already, because the store wrote meanwhile: all the better.
    with suppress(OSError), ballast.open("wb") as file:
        file.write(bytes(max(room - MIB, 0)))


def _grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,size={2 * TMPFS_BYTES}", str(disk)], check=True)


async def _read_count(node: RunningNode, topic: metadata_pb2.TopicMetadata) -> int:
    """Read the partition from its start to its high watermark."""
    fetcher = FetchClient(node.channel)
    await fetcher.open()
    await fetcher.subscribe(1, topic, credit_bytes=1024 * MIB)
    await fetcher.tell(total_credit_bytes=1024 * MIB)
    count = 0
    while True:
        push = await fetcher.push()
        assert push.error is None
        count += len(list(split(push.records)))
        if 0 <= push.high_watermark <= count:
            fetcher.call.cancel()
            return count
