"""`odradek node`: arguments to configuration to a running node."""

from pathlib import Path
from typing import Annotated

import typer

from odradek.node.config import ConfigError, load_config, prepare_libraries

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_EXIT_USAGE = 2


@app.command()
def node(  # noqa: PLR0917  one parameter a flag
    id: Annotated[  # noqa: A002  the flag's name
        int | None, typer.Option(help="The node's number: unique in the cluster, kept for ever.")
    ] = None,
    controllers: Annotated[
        str | None, typer.Option(metavar="HOST:PORT,...", help="Every controller of the cluster.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the node stores everything.")
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where to serve.", show_default="0.0.0.0:7070"),
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="What clients and other nodes dial.",
            show_default="where it listens",
        ),
    ] = None,
    rack: Annotated[str | None, typer.Option(help="The node's failure domain.")] = None,
    replace: Annotated[  # noqa: FBT002  a flag
        bool,
        typer.Option(
            "--replace", help="Take the place of a dead node of this id whose data is lost."
        ),
    ] = False,
    connections_max: Annotated[
        int | None,
        typer.Option(help="Refuse client connections beyond this.", show_default="10000"),
    ] = None,
    storage_reserve_bytes: Annotated[
        int | None,
        typer.Option(help="Refuse writes when less disk is free.", show_default="1 GiB"),
    ] = None,
    tail_cache_bytes: Annotated[
        int | None,
        typer.Option(help="Memory for the newest batches.", show_default="48 MiB"),
    ] = None,
    group_session_timeout_s: Annotated[
        float | None,
        typer.Option(
            help="How long a group's silent member is kept, in seconds.", show_default="45"
        ),
    ] = None,
    shutdown_grace_s: Annotated[
        float | None,
        typer.Option(help="How long a stop may take, in seconds.", show_default="10"),
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(metavar="auto|json|console", show_default="auto")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="debug|info|warning|error", show_default="info")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", envvar="ODRADEK_NODE_CONFIG", help="A TOML file with these settings."
        ),
    ] = None,
) -> None:
    """Run one broker node until SIGTERM or Ctrl-C.

    Every setting can also come from the environment (ODRADEK_NODE_CONNECTIONS_MAX=200) or from the
    file (connections_max = 200); flags win over the environment, the environment over the file.

    Exit codes: 0 stopped as asked, 1 failed, 2 wrong settings, 3 refused by the cluster.
    """
    flags = {**locals(), "replace": replace or None}
    del flags["config"]
    try:
        settings = load_config(flags, config)
    except ConfigError as error:
        typer.echo(f"odradek node: the settings have mistakes:\n{error}", err=True)
        raise typer.Exit(_EXIT_USAGE) from error
    prepare_libraries()
    # Only now: gRPC reads its environment as it loads, and --help should not wait for it.
    from odradek.node.process import run  # noqa: PLC0415

    raise typer.Exit(run(settings))
