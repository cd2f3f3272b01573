"""`odradek node`: arguments to configuration to a running node."""

from pathlib import Path
from typing import Annotated, Final

import typer

from odradek.node.config import load_config
from odradek.program.settings import ConfigError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_EXIT_USAGE: Final = 2

# None: not given on the command line, so that the environment and the file are heard. Numbers come
# as text: the settings read them, and tell all mistakes at once.
Id = Annotated[
    str | None,
    typer.Option(
        metavar="INTEGER", help="The node's number: unique in the cluster, kept for ever."
    ),
]
Controllers = Annotated[
    str | None, typer.Option(metavar="HOST:PORT,...", help="Every controller of the cluster.")
]
Data = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the node stores everything.")]
Listen = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Where to serve.", show_default="0.0.0.0:7070"),
]
Advertise = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="What clients and other nodes dial.",
        show_default="where it listens",
    ),
]
Rack = Annotated[str | None, typer.Option(metavar="NAME", help="The node's failure domain.")]
Replace = Annotated[
    bool,
    typer.Option("--replace", help="Take the place of a dead node of this id whose data is lost."),
]
ConnectionsMax = Annotated[
    str | None,
    typer.Option(
        metavar="INTEGER", help="Refuse client connections beyond this.", show_default="10000"
    ),
]
StorageReserve = Annotated[
    str | None,
    typer.Option(
        metavar="INTEGER", help="Refuse writes when less disk is free.", show_default="1 GiB"
    ),
]
TailCache = Annotated[
    str | None,
    typer.Option(metavar="INTEGER", help="Memory for the newest batches.", show_default="48 MiB"),
]
PageCache = Annotated[
    str | None,
    typer.Option(
        metavar="INTEGER",
        help="How much of the newest data the system keeps in memory.",
        show_default="512 MiB",
    ),
]
ReplicationThrottle = Annotated[
    str | None,
    typer.Option(
        metavar="INTEGER",
        help="Bytes per second for copying to replicas that are not in sync; 0: no bound.",
        show_default="32 MiB",
    ),
]
GroupSessionTimeout = Annotated[
    str | None,
    typer.Option(
        metavar="FLOAT",
        help="How long a group's silent member is kept, in seconds.",
        show_default="45",
    ),
]
ShutdownGrace = Annotated[
    str | None,
    typer.Option(metavar="FLOAT", help="How long a stop may take, in seconds.", show_default="10"),
]
LogFormat = Annotated[
    str | None, typer.Option(metavar="auto|json|console", show_default="auto", help="Of events.")
]
LogLevel = Annotated[
    str | None,
    typer.Option(metavar="debug|info|warning|error", show_default="info", help="Least to tell."),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", envvar="ODRADEK_NODE_CONFIG", help="A TOML file with these settings."
    ),
]


@app.command()
def node(  # noqa: PLR0917  one parameter a flag
    id: Id = None,  # noqa: A002  the flag's name
    controllers: Controllers = None,
    data: Data = None,
    listen: Listen = None,
    advertise: Advertise = None,
    rack: Rack = None,
    replace: Replace = False,  # noqa: FBT002  a flag
    connections_max: ConnectionsMax = None,
    storage_reserve_bytes: StorageReserve = None,
    tail_cache_bytes: TailCache = None,
    page_cache_bytes: PageCache = None,
    replication_throttle_bytes_per_s: ReplicationThrottle = None,
    group_session_timeout_s: GroupSessionTimeout = None,
    shutdown_grace_s: ShutdownGrace = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
    config: ConfigFile = None,
) -> None:
    """Run one broker node until SIGTERM or Ctrl-C.

    Every setting can also come from the environment (ODRADEK_NODE_CONNECTIONS_MAX=200) or from the
    file (connections_max = 200); flags win over the environment, the environment over the file.

    Exit codes: 0 stopped as asked, 1 failed, 2 wrong settings, 3 refused by the cluster,
    70 the disk cannot be trusted.
    """
    flags = {**locals(), "replace": replace or None}
    del flags["config"]
    try:
        settings = load_config(flags, config)
    except ConfigError as error:
        typer.echo(f"odradek node: the settings have mistakes:\n{error}", err=True)
        raise typer.Exit(_EXIT_USAGE) from error
    # Only now: --help should not wait for it.
    from odradek.node.process import run  # noqa: PLC0415

    run(settings)
