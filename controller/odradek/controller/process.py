"""The controller as a process of its own: event loop, signals, exit codes."""

import asyncio
import signal
from typing import NoReturn

import structlog

from odradek.controller.config import ControllerConfig
from odradek.controller.controller import Controller
from odradek.controller.raft import DataDirectoryError
from odradek.program.ending import EXIT_FAILED, run_to_the_end
from odradek.program.logs import configure_logs
from odradek.protocol.errors import OdradekError

_log = structlog.get_logger()

_EXIT_STOPPED = 0


def run(config: ControllerConfig) -> NoReturn:
    """Run one controller until SIGTERM or SIGINT, then end the process."""
    configure_logs(config.log_format, config.log_level, program="controller", controller=config.id)
    run_to_the_end(_run(config))


async def _run(config: ControllerConfig) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await Controller(config).run(stop)
    except (DataDirectoryError, OdradekError, OSError) as error:
        _log.error("cannot run", reason=str(error))
        return EXIT_FAILED
    _log.info("stopped")
    return _EXIT_STOPPED
