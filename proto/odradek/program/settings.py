"""A server program's settings: flags, environment, a TOML file, in this order of precedence.

Everything a settings class holds concerns one process; what concerns the cluster lives in the
controller's log. All mistakes are reported at once, each naming its key: flags come here as text,
and a relation between fields belongs to the validator of the later one, which runs whatever else is
wrong. The only module of the servers that touches the environment.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from odradek.protocol.names import near_names

PROCESS_ID_MAX: Final = (1 << 31) - 1
WILDCARD_HOSTS: Final = frozenset({"0.0.0.0", "[::]"})  # noqa: S104 - compared with, not bound
_PORT_MAX: Final = 65535
_FILE_KEY: Final = "config"  # read by the command, to know the file
# Kubernetes gives these to each container for a Service named, say, odradek-node; likewise
# ODRADEK_NODE_PORT=tcp://10.0.0.1:7070.
_SERVICE_LINK: Final = re.compile(
    r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$"
)
# Kinds of pydantic's errors whose text says what was given.
_NAMING_THE_VALUE: Final = frozenset({"value_error", "too_short"})


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
    unreadable = None if file is None else _why_unreadable(file)
    with_file: type[SettingsT] = type(
        kind.__name__,
        (kind,),
        {"model_config": SettingsConfigDict(toml_file=None if unreadable else file)},
    )
    mistakes: list[str] = []
    settings = None
    try:
        settings = with_file(**{key: value for key, value in flags.items() if value is not None})
    except ValidationError as error:
        mistakes += (_mistake(each, kind) for each in error.errors())
    mistakes += _unknown_variables(kind)
    if unreadable:
        judged = "; what follows is judged without it" if mistakes else ""
        mistakes.insert(0, f"--config: {unreadable}{judged}")
    if settings is None or mistakes:
        raise ConfigError("\n".join(mistakes))
    return settings


def _why_unreadable(file: Path) -> str | None:
    try:
        with file.open("rb") as opened:
            tomllib.load(opened)
    except FileNotFoundError:
        return f"there is no file {file}"
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}"
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return f"{file} is not TOML: {error}"
    return None


def _mistake(error: Any, kind: type[ProgramSettings]) -> str:
    key = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        return _no_such(key, kind.model_fields)
    variable = f"{kind.model_config['env_prefix']}{key.upper()}"
    where = f"--{key.replace('_', '-')} (or {variable}, or {key} in the file)"
    if error["type"] == "missing":
        return f"{where}: is required"
    if error["type"] in _NAMING_THE_VALUE:
        return f"{where}: {error['msg'].removeprefix('Value error, ')}"
    rule = error["msg"].partition(", unable to")[0]
    return f"{where}: {rule}, not {error['input']!r}"


def _unknown_variables(kind: type[ProgramSettings]) -> Iterator[str]:
    """Tell of variables with the program's prefix that are no setting's."""
    prefix = str(kind.model_config["env_prefix"])
    known = {key.upper() for key in (*kind.model_fields, _FILE_KEY)}
    for variable, value in sorted(EnvSettingsSource(kind).env_vars.items()):
        name = variable.upper()
        key = name.removeprefix(prefix)
        if key not in {name, *known} and not _is_service_link(name, value):
            yield _no_such(key, known, prefix)


def _is_service_link(name: str, value: str | None) -> bool:
    return bool(_SERVICE_LINK.search(name)) or (name.endswith("_PORT") and "://" in (value or ""))


def _no_such(key: str, known: Iterable[str], prefix: str = "") -> str:
    # Compared without the prefix, which would make all of them alike.
    near = " or ".join(f"{prefix}{each}" for each in near_names(key, known))
    return f"{prefix}{key}: no such setting{near and f'; did you mean {near}?'}"
