"""Subcommands that are imported when they are used, and not before.

Problem: `odradek topics list` must not load a broker, and the programs must never import each
other. Idea: a command is a name, one line of help, and where it is found; `--help` shows the first
two. Programs contribute theirs through the entry points group `odradek.commands`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

_ENTRY_POINTS_GROUP = "odradek.commands"
_BUILT_IN = "odradek.client.cli"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a command comes from.

    Attributes:
        name: What a person types.
        help: One line.
        target: `module:attribute`, a `typer.Typer`.
    """

    name: str
    help: str
    target: str

    def load(self) -> Any:
        """Import the command.

        Raises:
            typer.Exit: A dependency of it is not installed; standard error says which.
        """
        module, _, attribute = self.target.partition(":")
        try:
            loaded = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            typer.echo(
                f"odradek {self.name} needs the module {error.name!r}, which is not installed."
                "\n  pip install 'odradek[server]'",
                err=True,
            )
            raise typer.Exit(1) from error
        return typer.main.get_command(loaded) if isinstance(loaded, typer.Typer) else loaded


_OWN = (
    Source("dev", "Run a whole cluster on this machine until Ctrl-C.", f"{_BUILT_IN}.dev:app"),
    Source("topics", "Create, list, describe, alter and delete topics.", f"{_BUILT_IN}.topics:app"),
    Source("produce", "Send lines of files or standard input.", f"{_BUILT_IN}.produce:app"),
    Source("consume", "Show records, as they come.", f"{_BUILT_IN}.consume:app"),
    Source("groups", "Look at consumer groups, reset or delete them.", f"{_BUILT_IN}.groups:app"),
    Source("cluster", "Look at nodes and controllers.", f"{_BUILT_IN}.cluster:app"),
    Source("bench", "Measure a cluster for a few seconds.", f"{_BUILT_IN}.bench:app"),
)

# Entry points carry no text; their programs are known.
_HELP = {"node": "Run one broker node.", "controller": "Run one controller."}


def _sources() -> Iterator[Source]:
    yield from _OWN
    for found in sorted(entry_points(group=_ENTRY_POINTS_GROUP), key=lambda point: point.name):
        yield Source(found.name, _HELP.get(found.name, f"From {found.module}."), found.value)


class _LazyCommand(TyperCommand):
    """Stands for a command until its arguments are parsed."""

    def __init__(self, source: Source) -> None:
        super().__init__(source.name, help=source.help)
        self._source = source

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        return self._source.load().make_context(*args, **kwargs)


class LazyGroup(TyperGroup):
    """The top of the command line: all subcommands, none imported."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for source in _sources():
            self.add_command(_LazyCommand(source))
