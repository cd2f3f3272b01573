"""A server program's settings: flags, environment, a TOML file, in this order of precedence.

Everything a settings class holds concerns one process; what concerns the cluster lives in the
controller's log. All mistakes are reported at once, each naming its key. The only module of the
servers that touches the environment.
"""

from collections.abc import Mapping
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

PROCESS_ID_MAX: Final = (1 << 31) - 1
WILDCARD_HOSTS: Final = frozenset({"0.0.0.0", "[::]"})  # noqa: S104 - compared with, not bound
_PORT_MAX: Final = 65535


class ConfigError(Exception):
    """One line a mistake, each naming its key."""


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) <= _PORT_MAX):
        raise ValueError(f"{text!r} is not HOST:PORT with a port of 0 to {_PORT_MAX}")
    return text


def _dialled(text: str) -> str:
    host, _, port = _address(text).rpartition(":")
    if int(port) == 0 or host in WILDCARD_HOSTS:
        raise ValueError(f"{text!r} is nothing others could dial")
    return text


Address = Annotated[str, AfterValidator(_address)]
DialledAddress = Annotated[str, AfterValidator(_dialled)]
ProcessId = Annotated[int, Field(ge=0, le=PROCESS_ID_MAX)]
LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]


class ProgramSettings(BaseSettings):
    """What every server process can be told; a subclass sets the prefix of its variables."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=True)

    id: ProcessId
    """The process's number: unique among its kind, the same at every start."""
    data: Path
    """Directory of everything it keeps."""
    log_format: LogFormat = "auto"
    """auto: console lines for people at a terminal, JSON otherwise."""
    log_level: LogLevel = "info"
    """Which log events are written."""

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


SettingsT = TypeVar("SettingsT", bound=ProgramSettings)


def load_settings(
    kind: type[SettingsT], flags: Mapping[str, Any], file: Path | None = None
) -> SettingsT:
    """Read a program's settings.

    Args:
        kind: What to read.
        flags: By field name; None means not given.
        file: A TOML file with fields by name.

    Raises:
        ConfigError: One or more mistakes, a line each.
    """
    if file is not None and not file.is_file():
        raise ConfigError(f"--config: there is no file {file}")
    with_file: type[SettingsT] = type(
        kind.__name__, (kind,), {"model_config": SettingsConfigDict(toml_file=file)}
    )
    prefix = str(kind.model_config["env_prefix"])
    try:
        return with_file(**{key: value for key, value in flags.items() if value is not None})
    except ValidationError as error:
        mistakes = [_mistake(each, prefix) for each in error.errors()]
        raise ConfigError("\n".join(mistakes)) from error
    except TOMLDecodeError as error:
        raise ConfigError(f"--config: {file} is not TOML: {error}") from error


def _mistake(error: Any, prefix: str) -> str:
    message: str = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message  # a relation: names its keys itself
    key = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        return f"{key}: no such setting"
    where = f"--{key.replace('_', '-')} (or {prefix}{key.upper()}, or {key} in the file)"
    return f"{where}: is required" if error["type"] == "missing" else f"{where}: {message}"
