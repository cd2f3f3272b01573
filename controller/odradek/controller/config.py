"""The settings of one controller process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from odradek.program.settings import (
    Address,
    DialledAddress,
    ProcessId,
    ProgramSettings,
    load_settings,
)

_CONTROLLER_COUNTS: Final = (1, 3, 5)


def _peers(value: object) -> object:
    """Turn `1=a:7080,2=b:7080`, or a list of such parts, into a table of addresses by id."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        return value
    peers: dict[str, str] = {}
    for part in value:
        peer_id, equals, address = str(part).partition("=")
        if not equals:
            raise ValueError(f"{part!r} is not ID=HOST:PORT")
        if peers.setdefault(peer_id, address) != address:
            raise ValueError(f"controller {peer_id} has two addresses: {peers[peer_id]}, {address}")
    return peers


class ControllerConfig(ProgramSettings):
    """Settings of one controller process; `ODRADEK_CONTROLLER_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix="ODRADEK_CONTROLLER_")

    listen: Address = "0.0.0.0:7080"
    """HOST:PORT to serve nodes and other controllers; port 0 lets the system choose."""
    peer: Annotated[
        dict[ProcessId, DialledAddress],
        NoDecode,
        BeforeValidator(_peers),
        Field(default_factory=dict),
    ]
    """ID=HOST:PORT of every controller; this one may be among them. Empty: it is the only one."""
    cluster_id: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9._-]*$")] = ""
    """The cluster's id, the same for all controllers; made up by the first active one if empty."""
    bootstrap: bool = False
    """Allow an empty data directory, as a first member of a new cluster."""
    rejoin: bool = False
    """Allow an empty data directory in an existing cluster: the disk was replaced."""
    session_timeout_s: Annotated[float, Field(ge=1, le=600)] = 6.0
    """How long a silent node is kept."""
    disconnect_grace_s: Annotated[float, Field(gt=0, le=600)] = 0.2
    """How long a node is kept whose connection broke."""
    heartbeat_interval_s: Annotated[float, Field(ge=0.1, le=60)] = 1.0
    """How often nodes send heartbeats."""

    @property
    def others(self) -> dict[int, str]:
        """The addresses of the other controllers, by id."""
        return {peer_id: address for peer_id, address in self.peer.items() if peer_id != self.id}

    @model_validator(mode="after")
    def _relations(self) -> Self:
        mistakes = []
        count = len(self.others) + 1
        if count not in _CONTROLLER_COUNTS:
            mistakes.append(
                f"--peer: {count} controllers (this one included) have no use for the last one;"
                " use 1, 3 or 5"
            )
        if self.bootstrap and self.rejoin:
            mistakes.append("--rejoin: excludes --bootstrap")
        if self.heartbeat_interval_s * 3 > self.session_timeout_s:
            mistakes.append(
                f"--heartbeat-interval-s: {self.heartbeat_interval_s} is more than a third of"
                f" session_timeout_s = {self.session_timeout_s}"
            )
        if self.disconnect_grace_s > self.session_timeout_s:
            mistakes.append(
                f"--disconnect-grace-s: {self.disconnect_grace_s} is more than"
                f" session_timeout_s = {self.session_timeout_s}"
            )
        if mistakes:
            raise ValueError("\n".join(mistakes))
        return self


def load_config(flags: Mapping[str, Any], file: Path | None = None) -> ControllerConfig:
    """Read the configuration: flags by field name (None: not given), and a TOML file.

    Raises:
        ConfigError: One or more mistakes, a line each.
    """
    return load_settings(ControllerConfig, flags, file)
