"""The entry point of the command `odradek`; also says how to install what the base wheel lacks."""

import sys
from importlib.util import find_spec

_NEEDS = ("typer", "rich")


def main() -> None:
    """Run the command line and exit with its status (see `exits.ExitCode`)."""
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        sys.exit(
            f"odradek: the command line needs {' and '.join(missing)}.\n"
            "  pip install 'odradek[cli]'      to talk to a cluster\n"
            "  pip install 'odradek[server]'   to run one here as well (odradek dev)"
        )
    from odradek.client.cli.app import app  # noqa: PLC0415  (typer must be present)

    try:
        app()
    except OSError as error:  # of help and version: what commands do themselves never gets here
        if error.filename is not None:
            raise
        from odradek.client.cli.output import give_up_writing  # noqa: PLC0415

        sys.exit(give_up_writing(error))


if __name__ == "__main__":
    main()
