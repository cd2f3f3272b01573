"""How a server program ends: at once, whatever happened, and saying why.

A broken invariant ends it wherever it is found: a loop only logs what its callbacks raise, and
group commits, acknowledgements and the controllers' image are moved on by callbacks.

Problem: gRPC's threads outlive its channels and servers. One that meets a closed loop, or an
interpreter that is going, ends the process with signal 11 and hides what had happened. Idea: leave
while the loop still runs; what must be on disk is there by then.
"""

import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Any, Final, NoReturn

import structlog
import uvloop

EXIT_FAILED: Final = 1

_log = structlog.get_logger()


def run_to_the_end(program: Coroutine[Any, Any, int]) -> NoReturn:
    """Run a program on an event loop of its own, then end the process with the code it returns.

    Args:
        program: What it raises is logged, and the exit code is `EXIT_FAILED`.
    """
    uvloop.run(_run_and_exit(program))
    raise AssertionError("the process has ended")


async def _run_and_exit(program: Coroutine[Any, Any, int]) -> None:
    asyncio.get_running_loop().set_exception_handler(_on_stray_error)
    try:
        exit_code = await program
    except BaseException:  # noqa: BLE001 - told, then the process ends
        _log.critical("failed", exc_info=True)
        exit_code = EXIT_FAILED
    _exit(exit_code)


def _on_stray_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if not isinstance(error, AssertionError):
        loop.default_exception_handler(context)
        return
    _log.critical("an invariant is broken", where=context["message"], exc_info=error)
    _exit(EXIT_FAILED)


def _exit(exit_code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
