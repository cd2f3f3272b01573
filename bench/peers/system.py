"""What the comparison asks of a broker; each adapter is one small file behind these protocols."""

from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum
from pathlib import Path
from typing import Protocol


class Durability(Enum):
    """What an acknowledgement promises."""

    CACHE = "no fsync"
    COMMIT = "fsync"


class Stream(Protocol):
    """A log of six partitions, or six logs where a broker has no partitions; opened empty."""

    async def produce_many(self, values: Sequence[bytes]) -> None:
        """Produce the values in the client's best way; return when all are acknowledged."""
        ...

    async def produce_one_by_one(self, values: Sequence[bytes]) -> None:
        """Produce the values with a call for each; return when all are acknowledged."""
        ...

    async def produce_at_once(self, values: AsyncIterable[bytes]) -> None:
        """Produce each value as soon as it comes, without gathering; return when acknowledged."""
        ...

    async def consume(self, count: int, see: Callable[[bytes], object]) -> None:
        """Read so many records from the start, or as they come; show each value to `see`."""
        ...


class Broker(Protocol):
    """A running server."""

    def stream(self) -> AbstractAsyncContextManager[Stream]:
        """Create a stream, connect to it; delete it afterwards."""
        ...


class System(Protocol):
    """A kind of broker.

    Attributes:
        name: Heads its column.
        settings: What differs from its defaults, for each durability that it offers.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def settings(self) -> Mapping[Durability, str]: ...  # noqa: D102

    def version(self) -> str:
        """Return the versions of server and client.

        Raises:
            ServerAbsentError: The server is not installed.
        """
        ...

    def serve(self, durability: Durability, directory: Path) -> AbstractAsyncContextManager[Broker]:
        """Run a server with its data in `directory`; end it afterwards."""
        ...
