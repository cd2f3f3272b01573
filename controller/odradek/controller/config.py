"""The controller's configuration: flags, environment, a TOML file, in this order of precedence.

Everything here concerns one process. What concerns the cluster lives in the replicated log. All
mistakes are reported at once, each naming its key.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

ENVIRONMENT_PREFIX: Final = "ODRADEK_CONTROLLER_"
_PORT_MAX: Final = 65535
_ID_MAX: Final = (1 << 31) - 1
_CONTROLLER_COUNTS: Final = (1, 3, 5)


class ConfigError(Exception):
    """One line a mistake, each naming its key."""


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) <= _PORT_MAX):
        raise ValueError(f"{text!r} is not HOST:PORT with a port of 0 to {_PORT_MAX}")
    return text


def _dialled(text: str) -> str:
    host, _, port = _address(text).rpartition(":")
    if int(port) == 0 or host in {"0.0.0.0", "[::]"}:  # noqa: S104 - refused, not bound
        raise ValueError(f"{text!r} is nothing others could dial")
    return text


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


Address = Annotated[str, AfterValidator(_address)]
DialledAddress = Annotated[str, AfterValidator(_dialled)]
ControllerNumber = Annotated[int, Field(ge=0, le=_ID_MAX)]


class ControllerConfig(BaseSettings):
    """Settings of one controller process; `ODRADEK_CONTROLLER_<NAME>` in the environment."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, extra="forbid", frozen=True, validate_default=True
    )

    id: ControllerNumber
    """The controller's number: unique among controllers, the same at every start."""
    data: Path
    """Directory of the replicated log and its snapshots."""
    listen: Address = "0.0.0.0:7080"
    """HOST:PORT to serve nodes and other controllers; port 0 lets the system choose."""
    peer: Annotated[
        dict[ControllerNumber, DialledAddress],
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
    shutdown_grace_s: Annotated[float, Field(ge=0, le=600)] = 2.0
    """How long requests may take to end when the controller stops."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """auto: console lines for people at a terminal, JSON otherwise."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Which log events are written."""

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

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment, then the file."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_config(flags: Mapping[str, Any], file: Path | None = None) -> ControllerConfig:
    """Read the configuration.

    Args:
        flags: By field name; None means not given.
        file: A TOML file with fields by name.

    Raises:
        ConfigError: One or more mistakes, a line each.
    """

    class WithFile(ControllerConfig):
        model_config = SettingsConfigDict(toml_file=file)

    if file is not None and not file.is_file():
        raise ConfigError(f"--config: there is no file {file}")
    try:
        return WithFile(**{key: value for key, value in flags.items() if value is not None})
    except ValidationError as error:
        raise ConfigError("\n".join(map(_mistake, error.errors()))) from error
    except TOMLDecodeError as error:
        raise ConfigError(f"--config: {file} is not TOML: {error}") from error


def _mistake(error: Any) -> str:
    message: str = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message  # a relation: names its keys itself
    key = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        return f"{key}: no such setting"
    where = (
        f"--{key.replace('_', '-')} (or {ENVIRONMENT_PREFIX}{key.upper()}, or {key} in the file)"
    )
    return f"{where}: is required" if error["type"] == "missing" else f"{where}: {message}"


def prepare_libraries() -> None:
    """Choose, before gRPC loads, what it reads from the environment.

    Its event engine (the default since 1.75.1, grpc#43092) costs a third more time per message.
    """
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
