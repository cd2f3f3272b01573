"""Log events: JSON lines for machines, console lines for people at a terminal."""

import logging
import sys
from typing import Final, Literal

import structlog

_LEVELS: Final = logging.getLevelNamesMapping()
_process_fields: dict[str, object] = {}


def configure_logs(
    log_format: Literal["auto", "json", "console"], level: str, **fields: object
) -> None:
    """Set logging up for this process; every event carries `fields`.

    What libraries say through the standard library goes the same way.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    before: list[structlog.typing.Processor] = [
        _add_process_fields,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[structlog.typing.Processor]
    if console:
        render = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    else:
        # Without locals: they hold users' records, and are long.
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        render = [
            structlog.processors.ExceptionRenderer(tracebacks),
            structlog.processors.JSONRenderer(),
        ]
    structlog.configure(
        processors=[*before, *render],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*before, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=_LEVELS[level.upper()], force=True)
    bind_process_fields(**fields)


def bind_process_fields(**fields: object) -> None:
    """Add fields to every event from now on, whichever task logs it."""
    _process_fields.update(fields)


def _add_process_fields(
    logger: object, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    del logger, method
    return {**_process_fields, **event}
