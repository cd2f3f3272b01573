"""How much one request may name: an empty entry takes 2 bytes to send and a kilobyte to answer."""

from typing import Final

from odradek.protocol.errors import InvalidRequestError

PARTITIONS_MAX: Final = 100_000
NAMES_MAX: Final = 10_000
"""Of topics and groups."""


def check_count(field: str, count: int, limit: int = PARTITIONS_MAX) -> None:
    """Refuse a request that names too much.

    Raises:
        InvalidRequestError: More than the limit.
    """
    if count > limit:
        raise InvalidRequestError(
            f"{count} {field} are too many for one request", field=field, value=count, limit=limit
        )
