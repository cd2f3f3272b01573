# ruff: noqa: T201 - it speaks to the test over its standard output
"""A controller reduced to its replicated log, as a process: lines in, lines out.

`propose KEY` answers `acked KEY`, `refused KEY` or `unknown KEY`; `status` and `keys` answer in
JSON.
"""

import argparse
import asyncio
import json
import logging
import resource
import signal
import sys
from pathlib import Path

from odradek.controller.raft import RaftOptions, ReplicatedLog
from odradek.protocol.errors import NotControllerError, OutcomeUnknownError, ThrottledError
from odradek.protocol.types import ControllerId
from odradek.rpc.channels import open_channel
from odradek.rpc.server import Server
from odradek.v1 import raft_pb2_grpc


class KeyList:
    """The keys in the order of their commitment."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def apply(self, index: int, command: bytes) -> bytes:
        self.keys.append(command.decode().strip())
        return b"%d" % index

    def capture(self) -> object:
        return tuple(self.keys)

    def serialize(self, image: object) -> bytes:
        assert isinstance(image, tuple)
        return json.dumps(image).encode()

    def restore(self, snapshot: bytes, index: int) -> None:
        self.keys = json.loads(snapshot)


async def propose(log: ReplicatedLog, key: str) -> None:
    try:
        await log.propose(key.ljust(200).encode(), timeout_s=2.0)
    except (NotControllerError, ThrottledError):
        print("refused", key, flush=True)
    except OutcomeUnknownError:
        print("unknown", key, flush=True)
    else:
        print("acked", key, flush=True)


async def answer(log: ReplicatedLog, machine: KeyList) -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with asyncio.TaskGroup() as tasks:
        while line := (await lines.readline()).decode().split():
            match line:
                case ["propose", key]:
                    tasks.create_task(propose(log, key))
                case ["status"]:
                    status = log.status()
                    usage = resource.getrusage(resource.RUSAGE_SELF)
                    print(
                        "status",
                        json.dumps(
                            {
                                "is_leader": log.is_leader,
                                "leader_id": log.leader_id,
                                "is_voter": status.is_voter,
                                "applied": status.applied_index,
                                "first": status.first_index,
                                "snapshot": status.snapshot_index,
                                "cpu_s": usage.ru_utime + usage.ru_stime,
                            }
                        ),
                        flush=True,
                    )
                case ["keys"]:
                    print("keys", json.dumps(machine.keys), flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--id", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--snapshot-after", type=int, default=10_000)
    parser.add_argument("--file-bytes-max", type=int)
    parser.add_argument("--rejoin", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    if arguments.file_bytes_max:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.file_bytes_max,) * 2)
    base = arguments.base
    options = RaftOptions(
        cluster_id="processes",
        self_id=ControllerId(arguments.id),
        peers={
            ControllerId(other): f"unix:{base}/{other}.sock"
            for other in range(arguments.count)
            if other != arguments.id
        },
        data_directory=base / str(arguments.id),
        bootstrap=not arguments.rejoin,
        rejoin=arguments.rejoin,
        snapshot_after_entries=arguments.snapshot_after,
        retained_entries=10,
    )
    machine = KeyList()
    log = ReplicatedLog(options, machine, open_channel=open_channel)
    server = Server(f"unix:{base}/{arguments.id}.sock")
    raft_pb2_grpc.add_RaftServiceServicer_to_server(log.servicer, server.grpc)
    await server.start()
    async with log:
        await answer(log, machine)
    await server.drain(0.1)


asyncio.run(main())
