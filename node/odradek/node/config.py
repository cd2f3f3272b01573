"""The settings of one node process."""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode, SettingsConfigDict

from odradek.program.settings import (
    WILDCARD_HOSTS,
    Address,
    DialledAddress,
    ProgramSettings,
    load_settings,
)
from odradek.protocol.names import IDENTIFIER_LENGTH_MAX

_MIB: Final = 1 << 20


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


class NodeConfig(ProgramSettings):
    """Settings of one node process; `ODRADEK_NODE_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix="ODRADEK_NODE_")

    controllers: Annotated[
        tuple[DialledAddress, ...], NoDecode, BeforeValidator(_split), Field(min_length=1)
    ]
    """HOST:PORT of every controller."""
    listen: Address = "0.0.0.0:7070"
    """HOST:PORT to serve; port 0 lets the system choose."""
    advertise: DialledAddress | None = None
    """HOST:PORT others dial; by default where it listens, with the machine's name for 0.0.0.0."""
    rack: Annotated[str, Field(max_length=IDENTIFIER_LENGTH_MAX)] = ""
    """The failure domain."""
    replace: bool = False
    """Take the place of a dead node of this id whose data is lost."""
    connections_max: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Further client connections are refused."""
    storage_reserve_bytes: Annotated[int, Field(ge=64 * _MIB)] = 1024 * _MIB
    """Disk space kept free: below it writes are refused; at least four memtables."""
    tail_cache_bytes: Annotated[int, Field(ge=0)] = 48 * _MIB
    """Memory for the newest batches of all partitions."""
    page_cache_bytes: Annotated[int, Field(ge=0)] = 512 * _MIB
    """How much of the newest data the system keeps in its page cache; the rest is on disk alone.

    Larger serves consumers that lag by so much from memory; smaller makes writing cheaper where
    memory that was not used for a while costs more, as on many virtual machines.
    """
    replication_throttle_bytes_per_s: Annotated[int, Field(ge=0)] = 32 * _MIB
    """For copying to replicas that are not in sync, all together; 0 for no bound.

    A fifth to a third of what one SSD takes beside the producers' records: a terabyte that several
    nodes send one takes hours, and nobody notices it.
    """
    group_session_timeout_s: Annotated[float, Field(ge=0.5, le=1800)] = 45.0
    """How long a consumer group's silent member is kept; the same on every node."""
    shutdown_grace_s: Annotated[float, Field(ge=0, le=600)] = 10.0
    """How long a stop may take: moving leaderships away, then finishing requests."""

    def advertised_address(self, port: int) -> str:
        """Return what others dial, given the port this node listens on."""
        if self.advertise is not None:
            return self.advertise
        host, _, _ = self.listen.rpartition(":")
        return f"{socket.gethostname() if host in WILDCARD_HOSTS else host}:{port}"


def load_config(flags: Mapping[str, Any], file: Path | None = None) -> NodeConfig:
    """Read the configuration: flags by field name (None: not given), and a TOML file.

    Raises:
        ConfigError: One or more mistakes, a line each.
    """
    return load_settings(NodeConfig, flags, file)
