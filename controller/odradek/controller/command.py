"""`odradek controller`: arguments to configuration to a running controller."""

from pathlib import Path
from typing import Annotated

import typer

from odradek.controller.config import load_config
from odradek.program.settings import ConfigError

app = typer.Typer(add_completion=False, no_args_is_help=False)

_EXIT_USAGE = 2

# None: not given on the command line, so that the environment and the file are heard. Numbers come
# as text: the settings read them, and tell all mistakes at once.
Id = Annotated[
    str | None,
    typer.Option(
        metavar="INTEGER", help="The controller's number: unique among controllers, kept for ever."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where the replicated log and its snapshots are."),
]
Listen = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Where to serve nodes and other controllers.",
        show_default="0.0.0.0:7080",
    ),
]
Peer = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ID=HOST:PORT",
        help="A controller; once for each of the 1, 3 or 5. This one may be among them.",
        show_default="none: the only one",
    ),
]
ClusterId = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="The cluster's id, the same for all controllers.",
        show_default="made up by the first active one",
    ),
]
Bootstrap = Annotated[
    bool,
    typer.Option(
        "--bootstrap",
        help="Allow an empty data directory: a new cluster begins once all controllers have met.",
    ),
]
Rejoin = Annotated[
    bool,
    typer.Option(
        "--rejoin",
        help="Allow an empty data directory in an existing cluster only: its disk was replaced.",
    ),
]
SessionTimeout = Annotated[
    str | None,
    typer.Option(
        metavar="FLOAT", help="How long a silent node is kept, in seconds.", show_default="6"
    ),
]
DisconnectGrace = Annotated[
    str | None,
    typer.Option(
        metavar="FLOAT",
        help="How long a node is kept whose connection broke, in seconds.",
        show_default="0.2",
    ),
]
HeartbeatInterval = Annotated[
    str | None,
    typer.Option(
        metavar="FLOAT", help="How often nodes send heartbeats, in seconds.", show_default="1"
    ),
]
LogFormat = Annotated[str | None, typer.Option(metavar="auto|json|console", show_default="auto")]
LogLevel = Annotated[
    str | None, typer.Option(metavar="debug|info|warning|error", show_default="info")
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="ODRADEK_CONTROLLER_CONFIG",
        help="A TOML file with these settings.",
    ),
]


@app.command()
def controller(  # noqa: PLR0917 - one parameter a flag
    id: Id = None,  # noqa: A002 - the flag's name
    data: Data = None,
    listen: Listen = None,
    peer: Peer = None,
    cluster_id: ClusterId = None,
    bootstrap: Bootstrap = False,  # noqa: FBT002 - a flag
    rejoin: Rejoin = False,  # noqa: FBT002 - a flag
    session_timeout_s: SessionTimeout = None,
    disconnect_grace_s: DisconnectGrace = None,
    heartbeat_interval_s: HeartbeatInterval = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
    config: Config = None,
) -> None:
    """Run one controller until SIGTERM or Ctrl-C.

    Every setting can also come from the environment (ODRADEK_CONTROLLER_SESSION_TIMEOUT_S=10) or
    from the file (session_timeout_s = 10); flags win over the environment, the environment over the
    file.

    The first start of a new cluster needs --bootstrap. It may stay among the flags: an empty disk
    has no vote until all controllers have met with empty disks, or until the leader of those with
    data has admitted it.

    Exit codes: 0 stopped as asked, 1 failed, 2 wrong settings, 70 the disk cannot be trusted.
    """
    flags = {
        **locals(),
        "peer": peer or None,
        "bootstrap": bootstrap or None,
        "rejoin": rejoin or None,
    }
    del flags["config"]
    try:
        settings = load_config(flags, config)
    except ConfigError as error:
        typer.echo(f"odradek controller: the settings have mistakes:\n{error}", err=True)
        raise typer.Exit(_EXIT_USAGE) from error
    # Only now: --help should not wait for it.
    from odradek.controller.process import run  # noqa: PLC0415

    run(settings)
