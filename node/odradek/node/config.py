"""The node's configuration: flags, environment, a TOML file, in this order of precedence.

Everything here concerns one process. What concerns the cluster (topics, their settings) lives in
the controller's log. All mistakes are reported at once, each naming its key.
"""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from odradek.protocol.names import IDENTIFIER_LENGTH_MAX

ENVIRONMENT_PREFIX: Final = "ODRADEK_NODE_"
_PORT_MAX: Final = 65535
_MIB: Final = 1 << 20
_WILDCARDS: Final = {"0.0.0.0", "[::]"}  # noqa: S104  compared with, not bound


class ConfigError(Exception):
    """One line a mistake, each naming its key."""


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) <= _PORT_MAX):
        raise ValueError(f"{text!r} is not HOST:PORT with a port of 0 to {_PORT_MAX}")
    return text


def _dialled(text: str) -> str:
    host, _, port = _address(text).rpartition(":")
    if int(port) == 0 or host in _WILDCARDS:
        raise ValueError(f"{text!r} is nothing others could dial")
    return text


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


Address = Annotated[str, AfterValidator(_address)]
DialledAddress = Annotated[str, AfterValidator(_dialled)]


class NodeConfig(BaseSettings):
    """Settings of one node process; `ODRADEK_NODE_<NAME>` in the environment."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, extra="forbid", frozen=True, validate_default=True
    )

    id: Annotated[int, Field(ge=0, le=(1 << 31) - 1)]
    """The node's number: unique in the cluster, the same at every start."""
    controllers: Annotated[
        tuple[DialledAddress, ...], NoDecode, BeforeValidator(_split), Field(min_length=1)
    ]
    """HOST:PORT of every controller."""
    data: Path
    """Directory of everything the node stores."""
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
    group_session_timeout_s: Annotated[float, Field(ge=0.5, le=1800)] = 45.0
    """How long a consumer group's silent member is kept; the same on every node."""
    shutdown_grace_s: Annotated[float, Field(ge=0, le=600)] = 10.0
    """How long a stop may take: moving leaderships away, then finishing requests."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """auto: console lines for people at a terminal, JSON otherwise."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Which log events are written."""

    def advertised_address(self, port: int) -> str:
        """Return what others dial, given the port this node listens on."""
        if self.advertise is not None:
            return self.advertise
        host, _, _ = self.listen.rpartition(":")
        return f"{socket.gethostname() if host in _WILDCARDS else host}:{port}"

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


def load_config(flags: Mapping[str, Any], file: Path | None = None) -> NodeConfig:
    """Read the configuration.

    Args:
        flags: By field name; None means not given.
        file: A TOML file with fields by name.

    Raises:
        ConfigError: One or more mistakes, a line each.
    """

    class WithFile(NodeConfig):
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
    key = str(error["loc"][0]) if error["loc"] else "config"
    flag = key.replace("_", "-")
    where = f"--{flag} (or {ENVIRONMENT_PREFIX}{key.upper()}, or {key} in the file)"
    if error["type"] == "missing":
        return f"{where}: is required"
    if error["type"] == "extra_forbidden":
        return f"{key}: no such setting"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"


def prepare_libraries() -> None:
    """Choose, before gRPC loads, what it reads from the environment.

    Its event engine (the default since 1.75.1, grpc#43092) costs a third more time per message.
    """
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # it would write between our log events
