"""The settings of one controller process."""

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator
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
    """Allow an empty data directory: a new cluster begins once all its controllers have met."""
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

    @field_validator("peer")
    @classmethod
    def _majority(cls, peer: dict[int, str], info: ValidationInfo) -> dict[int, str]:
        count = len(peer.keys() | {info.data["id"]}) if "id" in info.data else None
        if count is not None and count not in _CONTROLLER_COUNTS:
            raise ValueError(
                f"{count} controllers (this one included) have no use for the last one;"
                " use 1, 3 or 5"
            )
        return peer

    @field_validator("rejoin")
    @classmethod
    def _new_or_not(cls, rejoin: bool, info: ValidationInfo) -> bool:  # noqa: FBT001  its value
        if rejoin and info.data.get("bootstrap"):
            raise ValueError("excludes --bootstrap")
        return rejoin

    @field_validator("disconnect_grace_s")
    @classmethod
    def _within_session(cls, grace_s: float, info: ValidationInfo) -> float:
        session_s = info.data.get("session_timeout_s", inf)
        if grace_s > session_s:
            raise ValueError(f"{grace_s} is more than session_timeout_s = {session_s}")
        return grace_s

    @field_validator("heartbeat_interval_s")
    @classmethod
    def _third_of_session(cls, interval_s: float, info: ValidationInfo) -> float:
        session_s = info.data.get("session_timeout_s", inf)
        if interval_s * 3 > session_s:
            raise ValueError(
                f"{interval_s} is more than a third of session_timeout_s = {session_s}"
            )
        return interval_s


def load_config(flags: Mapping[str, Any], file: Path | None = None) -> ControllerConfig:
    """Read the configuration: flags by field name (None: not given), and a TOML file.

    Raises:
        ConfigError: One or more mistakes, a line each.
    """
    return load_settings(ControllerConfig, flags, file)
