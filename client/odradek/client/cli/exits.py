"""What the exit status of `odradek` means, and which status an error gets. Pure."""

import re
from collections.abc import Mapping
from enum import IntEnum

from odradek.client.errors import InvalidOptionsError
from odradek.protocol import errors
from odradek.protocol.errors import OdradekError


class ExitCode(IntEnum):
    """The exit statuses of every command."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    INTERRUPTED = 130


EXIT_CODES_HELP = (
    "Exit status: 0 done, or a server stopped as asked; 1 failed; 2 wrong usage or an illegal"
    " value; 3 no such topic, partition, group or node; 4 the cluster cannot be reached or cannot"
    " answer now, try again; 130 interrupted by Ctrl-C, after what was begun had been finished."
)

_NOT_FOUND = (
    errors.UnknownTopicOrPartitionError,
    errors.UnknownTopicIdError,
    errors.GroupIdNotFoundError,
    errors.NodeIdNotRegisteredError,
)
_USAGE = (
    InvalidOptionsError,
    errors.InvalidTopicError,
    errors.InvalidGroupIdError,
    errors.InvalidPartitionsError,
    errors.InvalidReplicationFactorError,
    errors.InvalidConfigError,
    errors.InvalidRequestError,
    errors.OffsetOutOfRangeError,
    errors.UnsupportedCompressionTypeError,
)
_ADVICE: Mapping[type[OdradekError], str] = {
    errors.UnknownTopicOrPartitionError: "List the topics with: odradek topics list",
    errors.UnknownTopicIdError: "List the topics with: odradek topics list",
    errors.GroupIdNotFoundError: "List the groups with: odradek groups list",
    errors.NodeIdNotRegisteredError: "List the nodes with: odradek cluster status",
    errors.TopicAlreadyExistsError: "To accept that, add --if-not-exists",
    errors.NonEmptyGroupError: (
        "Stop its consumers first; odradek groups describe shows who they are"
    ),
}


def exit_code(error: OdradekError) -> ExitCode:
    """Return the status that tells a script what kind of failure it was."""
    if isinstance(error, _NOT_FOUND):
        return ExitCode.NOT_FOUND
    if isinstance(error, _USAGE):
        return ExitCode.USAGE
    return ExitCode.UNAVAILABLE if error.retriable else ExitCode.FAILURE


def advice(error: OdradekError, *, bootstrap: str) -> str:
    """Return one line on what to do next; empty when the message says it all."""
    if "did you mean" in error.message or error.field == "partition":
        return ""
    if error.suggestions:
        return f"Did you mean {' or '.join(error.suggestions)}?"
    for kind, text in _ADVICE.items():
        if isinstance(error, kind):
            return text
    match error:
        case errors.BrokerError() if not _names(error.message, error.limit):
            return f"Allowed: {error.limit}"
        case errors.BrokerError():
            return ""
        case _ if error.retriable:
            return (
                f"Is a cluster running at {bootstrap}? Start one here with: odradek dev;"
                " or name another with --bootstrap or ODRADEK_BOOTSTRAP"
            )
        case _:
            return ""


def _names(message: str, limit: str) -> bool:
    """Return whether a message holds every number or word of a limit already."""
    return all(part in message for part in re.findall(r"\w+", limit))
