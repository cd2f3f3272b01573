"""Options as keywords: `client.producer(linger_s=0.01, compression="zstd")`.

The fields are those of the option classes in `config`, which document them; enums may be given as
text. A keyword misspelt, or a word that is no choice, is reported with all other mistakes.
"""

import enum
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Literal, TypedDict

from odradek.client.config import (
    Acks,
    Compression,
    ConsumerOptions,
    DeliveryGuarantee,
    Isolation,
    Partitioner,
    ProducerOptions,
    RebalanceCallback,
    Start,
    raise_for,
)
from odradek.protocol.names import near_names

_PRODUCER_CHOICES: Mapping[str, type[enum.Enum]] = {"acks": Acks, "compression": Compression}
_CONSUMER_CHOICES: Mapping[str, type[enum.Enum]] = {
    "delivery": DeliveryGuarantee,
    "isolation": Isolation,
}


class ProducerSettings(TypedDict, total=False):
    """The same options as keywords of `Client.producer`; enums also as text."""

    acks: Acks | Literal["all", "leader"]
    linger_s: float
    batch_bytes: int
    request_bytes: int
    buffer_bytes: int
    delivery_timeout_s: float
    request_timeout_s: float
    in_flight: int
    retry_delay_s: float
    retry_delay_max_s: float
    compression: Compression | Literal["none", "gzip", "snappy", "lz4", "zstd"]
    partitioner: Partitioner | None


class ConsumerSettings(TypedDict, total=False):
    """The same options as keywords of `Client.consumer`; enums also as text."""

    group: str | None
    instance_id: str | None
    start: Start
    delivery: DeliveryGuarantee | Literal["at_least_once", "at_most_once"]
    auto_commit: bool
    commit_interval_s: float
    isolation: Isolation | Literal["read_committed", "read_uncommitted"]
    fetch_bytes: int
    partition_fetch_bytes: int
    min_bytes: int
    max_wait_s: float
    rebalance_timeout_s: float
    max_processing_time_s: float | None
    on_assigned: RebalanceCallback | None
    on_revoked: RebalanceCallback | None
    on_lost: RebalanceCallback | None


def producer_options(
    options: ProducerOptions | None, settings: ProducerSettings
) -> ProducerOptions:
    """Return options with single settings laid over them.

    Raises:
        InvalidOptionsError: Lists every mistake.
    """
    base = options or ProducerOptions()
    return replace(base, **_checked(ProducerOptions, settings, _PRODUCER_CHOICES))


def consumer_options(
    options: ConsumerOptions | None, settings: ConsumerSettings
) -> ConsumerOptions:
    """Return options with single settings laid over them.

    Raises:
        InvalidOptionsError: Lists every mistake.
    """
    base = options or ConsumerOptions()
    return replace(base, **_checked(ConsumerOptions, settings, _CONSUMER_CHOICES))


def _checked(
    kind: type[ProducerOptions | ConsumerOptions],
    settings: Mapping[str, Any],
    choices: Mapping[str, type[enum.Enum]],
) -> dict[str, Any]:
    known = {field.name for field in fields(kind)}
    given = {name: value for name, value in settings.items() if name in choices}
    raise_for(
        kind.__name__,
        [
            *((name in known, _unknown_option(name, known)) for name in settings),
            *(_choice_rule(name, value, choices[name]) for name, value in given.items()),
        ],
    )
    return {**settings, **{name: choices[name](value) for name, value in given.items()}}


def _unknown_option(name: str, known: set[str]) -> str:
    near = near_names(name, known)
    return f"unknown option {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else "")


def _choice_rule(name: str, value: object, kind: type[enum.Enum]) -> tuple[bool, str]:
    words = [each.value for each in kind]
    holds = isinstance(value, kind) or value in words
    return holds, f"{name} {value!r} must be one of {', '.join(words)}"
