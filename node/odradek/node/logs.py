"""Log events: JSON lines for machines, console lines for people at a terminal."""

import logging
import sys
from typing import Final, Literal

import structlog

_LEVELS: Final = logging.getLevelNamesMapping()
_process_fields: dict[str, object] = {}


def configure_logs(
    log_format: Literal["auto", "json", "console"], level: str, *, node_id: int
) -> None:
    """Set structlog up for this process; every event carries the node's id."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    timestamps = structlog.processors.TimeStamper(fmt="iso", utc=True)
    processors: list[structlog.typing.Processor] = [
        _add_process_fields,
        structlog.processors.add_log_level,
        timestamps,
    ]
    if console:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
    else:
        processors += [
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    bind_process_fields(program="node", node=node_id)


def bind_process_fields(**fields: object) -> None:
    """Add fields to every event from now on, whichever task logs it."""
    _process_fields.update(fields)


def _add_process_fields(
    logger: object, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    del logger, method
    return {**_process_fields, **event}
