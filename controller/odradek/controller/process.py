"""The controller as a process of its own: event loop, signals, exit codes."""

import asyncio
import signal

import structlog
import uvloop

from odradek.controller.config import ControllerConfig
from odradek.controller.controller import Controller
from odradek.controller.raft import DataDirectoryError
from odradek.program.logs import configure_logs
from odradek.protocol.errors import OdradekError
from odradek.rpc.server import AddressInUseError

_log = structlog.get_logger()

_EXIT_STOPPED = 0
_EXIT_FAILED = 1


def run(config: ControllerConfig) -> int:
    """Run one controller until SIGTERM or SIGINT; return the exit code."""
    configure_logs(config.log_format, config.log_level, program="controller", controller=config.id)
    exit_code: int = uvloop.run(_run(config))
    return exit_code


async def _run(config: ControllerConfig) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await Controller(config).run(stop)
    except (DataDirectoryError, OdradekError, AddressInUseError) as error:
        _log.error("cannot run", reason=str(error))
        return _EXIT_FAILED
    _log.info("stopped")
    return _EXIT_STOPPED
