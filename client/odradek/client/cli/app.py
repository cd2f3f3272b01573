"""The top of the command line."""

from typing import Annotated

import typer

from odradek.client.cli.exits import EXIT_CODES_HELP
from odradek.client.cli.lazy import LazyGroup

app = typer.Typer(
    cls=LazyGroup,
    name="odradek",
    help="A clustered, durable message broker. Begin with: odradek dev",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
    # Programming errors deserve a plain traceback; expected ones never get here.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001  (typer's callback signature)
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415  (slow, and rarely needed)

        typer.echo(f"odradek {version('odradek')}")
        raise typer.Exit


@app.callback()
def top(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Do nothing; options of the top level have callbacks."""
