"""How every command meets the cluster: options, one client, errors to exit statuses, Ctrl-C.

Invariant: this is the one place where an error becomes a message and a status; commands let errors
pass through.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import typer

from odradek.client import Client
from odradek.client.cli import output
from odradek.client.cli.exits import EXIT_CODES_HELP, ExitCode, advice, exit_code
from odradek.client.errors import InvalidOptionsError
from odradek.protocol.errors import OdradekError

T = TypeVar("T")

Bootstrap = Annotated[
    str,
    typer.Option(
        "--bootstrap",
        "-b",
        envvar="ODRADEK_BOOTSTRAP",
        metavar="HOST:PORT",
        help="Some nodes of the cluster, separated by commas; the others are learnt from them.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of a table.")]
DEFAULT_BOOTSTRAP = "localhost:7070"

# A person waits for the answer: give up sooner than a service would.
_OPERATION_TIMEOUT_S = 10.0
_REQUEST_TIMEOUT_S = 5.0
_PATIENCE_S = 1.5


def new_app(**settings: Any) -> typer.Typer:
    """Return a subcommand's `Typer` with the settings all of them share."""
    return typer.Typer(
        epilog=EXIT_CODES_HELP,
        add_completion=False,  # the top level's completion knows every subcommand
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        no_args_is_help=True,  # of a group of commands: a single one knows what it needs
        **settings,
    )


def with_client(bootstrap: str, action: Callable[[Client], Awaitable[T]]) -> T:
    """Run an action with a client of its own and return its result.

    Raises:
        typer.Exit: An error, reported on standard error, or Ctrl-C.
    """

    async def connected() -> T:
        patience = asyncio.get_running_loop().call_later(
            _PATIENCE_S,
            output.note,
            f"no answer from {bootstrap} yet; trying for {_OPERATION_TIMEOUT_S:.0f} s ...",
        )
        try:
            async with Client(
                bootstrap,
                client_id="odradek-cli",
                operation_timeout_s=_OPERATION_TIMEOUT_S,
                request_timeout_s=_REQUEST_TIMEOUT_S,
            ) as client:
                patience.cancel()
                return await action(client)
        finally:
            patience.cancel()

    return run(connected(), bootstrap=bootstrap)


def run(work: Coroutine[Any, Any, T], *, bootstrap: str = DEFAULT_BOOTSTRAP) -> T:
    """Run work in an event loop and return its result.

    Raises:
        typer.Exit: An error, reported on standard error, or Ctrl-C.
    """
    try:
        return asyncio.run(work)
    except InvalidOptionsError as error:
        output.failure("; ".join(error.reasons))
        raise typer.Exit(exit_code(error)) from error
    except OdradekError as error:
        output.failure(str(error), advice=advice(error, bootstrap=bootstrap))
        raise typer.Exit(exit_code(error)) from error
    except OSError as error:
        output.failure(str(error))
        raise typer.Exit(ExitCode.FAILURE) from error
    except UnicodeEncodeError as error:  # an argument that is no text
        output.failure(f"{error.object!r} cannot be written as {error.encoding}")
        raise typer.Exit(ExitCode.USAGE) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(ExitCode.INTERRUPTED) from error


class Interruption:
    """Whether Ctrl-C, or a request to end, was heard."""

    def __init__(self) -> None:
        self._heard = asyncio.Event()

    @property
    def is_heard(self) -> bool:
        """True from the first Ctrl-C on."""
        return self._heard.is_set()

    async def wait(self) -> None:
        """Return once it is heard."""
        await self._heard.wait()

    def hear(self) -> None:
        """Note the signal; the next one of its kind ends the process the hard way."""
        self._heard.set()
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(signal_number)


@asynccontextmanager
async def interruption() -> AsyncIterator[Interruption]:
    """Turn the first Ctrl-C (or SIGTERM) into a wish to drain; the second one ends at once."""
    loop = asyncio.get_running_loop()
    heard = Interruption()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, heard.hear)
    try:
        yield heard
    finally:
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(signal_number)


async def unless_interrupted(heard: Interruption, *work: Coroutine[Any, Any, T]) -> T | None:
    """Return what the first of some works gives; None when the interruption comes first.

    All the others have ended, cancelled, when this returns.
    """
    tasks = [asyncio.ensure_future(each) for each in work]
    interrupted = asyncio.ensure_future(heard.wait())
    try:
        await asyncio.wait({*tasks, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                return task.result()
        return None
    finally:
        for each in (*tasks, interrupted):
            each.cancel()
        await asyncio.gather(*tasks, interrupted, return_exceptions=True)


def checked(parse: Callable[[], T]) -> T:
    """Return what parsing a person's argument gives.

    Raises:
        typer.BadParameter: It raised an `OdradekError`, or met what is no text; usage is shown
            with its message.
    """
    try:
        return parse()
    except (OdradekError, UnicodeEncodeError) as error:
        raise typer.BadParameter(str(error)) from error


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone.

    Raises:
        typer.BadParameter: There is nobody to ask and `--yes` was not given.
        typer.Abort: The answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("this cannot be undone: confirm with --yes")
    typer.confirm(question, abort=True, err=True)
