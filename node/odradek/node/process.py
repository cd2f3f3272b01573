"""The node as a process of its own: memory, event loop, signals, exit codes."""

import asyncio
import ctypes
import gc
import os
import signal
import sys
import time
from typing import Final, NoReturn

import structlog

from odradek.node.cluster.membership import MembershipRefusedError
from odradek.node.config import NodeConfig
from odradek.node.node import Node
from odradek.node.storage.storage import Storage, StorageOptions
from odradek.node.storage.store_options import StoreOptions
from odradek.program.ending import EXIT_FAILED, run_to_the_end
from odradek.program.logs import configure_logs
from odradek.protocol.errors import (
    DuplicateNodeRegistrationError,
    InconsistentClusterIdError,
    OdradekError,
)
from odradek.rpc.server import AddressInUseError

_log = structlog.get_logger()

_EXIT_STOPPED: Final = 0
_EXIT_REFUSED: Final = 3
_EXIT_DISK: Final = 70

# How long the loop may keep the thread that syncs waiting for Python's lock.
_SWITCH_INTERVAL_S: Final = 0.0005

_M_TRIM_THRESHOLD: Final = -1  # glibc's malloc.h
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def run(config: NodeConfig) -> NoReturn:
    """Run one node until SIGTERM or SIGINT, then end the process."""
    _tune_memory()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    configure_logs(config.log_format, config.log_level, program="node", node=config.id)
    run_to_the_end(_run(config))


async def _run(config: NodeConfig) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    options = StorageOptions(
        store=StoreOptions(page_cache_bytes=config.page_cache_bytes),
        tail_cache_bytes=config.tail_cache_bytes,
        reserve_bytes=config.storage_reserve_bytes,
    )
    try:
        storage = Storage(config.data, options, fatal=_end_process, now_ms=_now_ms)
        async with storage:
            node = Node(config, storage)
            loop.call_later(1.0, gc.freeze)
            await node.run(stop)
    except (
        MembershipRefusedError,
        DuplicateNodeRegistrationError,
        InconsistentClusterIdError,
    ) as error:
        _log.error("refused", reason=str(error))
        return _EXIT_REFUSED
    except (OdradekError, AddressInUseError, OSError) as error:
        _log.error("cannot run", reason=str(error))
        return EXIT_FAILED
    _log.info("stopped")
    return _EXIT_STOPPED


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _end_process(error: BaseException) -> None:
    """The disk failed: what is on it is unknown, so nothing more may be said in its name."""
    _log.critical("the disk failed; ending at once", reason=str(error))
    sys.stderr.flush()
    os._exit(_EXIT_DISK)


def _tune_memory() -> None:
    """Keep buffers of a megabyte in the heap: mapping each anew costs a tenth of the throughput."""
    gc.set_threshold(20_000, 50, 100)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 64 << 20)
        libc.mallopt(_M_ARENA_MAX, 2)
