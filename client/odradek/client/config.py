"""Options of the client, its producers and its consumers: frozen, checked as a whole.

Durations are seconds, sizes bytes. A wrong set raises one `InvalidOptionsError` with every mistake.
"""

import enum
import os
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias, TypeVar

from odradek.client.errors import InvalidOptionsError
from odradek.protocol.errors import InvalidRequestError
from odradek.protocol.names import check_identifier
from odradek.protocol.types import TopicPartition
from odradek.rpc.tls import TlsOptions

Partitioner: TypeAlias = Callable[[str, bytes | None, int], int]
"""(topic, encoded key, partition count) -> partition."""

OptionsT = TypeVar("OptionsT", "ProducerOptions", "ConsumerOptions")

DEFAULT_PORT = 7070
_BATCH_BYTES_MIN = 1024
_UINT32_MAX = (1 << 32) - 1
# What travels in milliseconds; longer waits than a day are mistakes.
_WAIT_S_MAX = 24 * 60 * 60
# A name, an IPv4 address, or an IPv6 address in brackets, perhaps with its zone.
_HOST = re.compile(r"[\w.-]+|\[[0-9A-Fa-f:.]+(%[\w.-]+)?\]")


class Acks(enum.Enum):
    """When a record counts as acknowledged."""

    ALL = "all"
    """Every in-sync replica has it. Idempotent: a retry never duplicates."""
    LEADER = "leader"
    """The leader has it. Faster with replication, not idempotent: retries may duplicate."""


class Compression(enum.Enum):
    """How batches are compressed."""

    NONE = "none"
    GZIP = "gzip"
    SNAPPY = "snappy"
    LZ4 = "lz4"
    ZSTD = "zstd"
    """Recommended; compressed in a thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """How to reach a cluster.

    Attributes:
        bootstrap: `host:port` of some nodes; the others are learnt from the first that answers.
        client_id: For logs, quotas and people; not an identity.
        request_timeout_s: For one attempt of one request; at most a day.
        operation_timeout_s: For one administrative call with all its retries.
        rack: This client's failure domain; empty when unknown.
        tls: None for plain text.
    """

    bootstrap: tuple[str, ...]
    client_id: str
    request_timeout_s: float = 10.0
    operation_timeout_s: float = 30.0
    rack: str = ""
    tls: TlsOptions | None = None

    def __post_init__(self) -> None:
        raise_for(
            "ClientOptions",
            [
                (bool(self.bootstrap), "bootstrap needs at least one host:port"),
                *(_address_rule(address) for address in self.bootstrap),
                _wait_rule("request_timeout_s", self.request_timeout_s),
                _name_rule("client_id", self.client_id),
                _name_rule("rack", self.rack),
                (
                    self.operation_timeout_s >= self.request_timeout_s,
                    (
                        f"operation_timeout_s {self.operation_timeout_s} must be at least"
                        f" request_timeout_s {self.request_timeout_s}"
                    ),
                ),
            ],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerOptions:
    """How a producer batches, waits and retries.

    Attributes:
        acks: When a record counts as acknowledged.
        linger_s: How long a batch may wait for company although its node is idle; records batch
            anyway while requests are in flight.
        batch_bytes: A batch is sent when it would grow beyond this; a larger record travels alone.
        request_bytes: Ready batches of one node travel together up to this.
        buffer_bytes: Beyond this much unacknowledged, `send` waits, first come, first served.
        delivery_timeout_s: Waiting for room excluded; buffering, sending and all retries included.
        request_timeout_s: A node silent for so long counts as lost, and its requests are retried.
        in_flight: Batches under way per partition; at most 5 (idempotence remembers five).
        retry_delay_s: First wait before a retry; doubles.
        retry_delay_max_s: Longest wait before a retry.
        compression: Codec of the batches.
        partitioner: None: by key (murmur2, as Kafka), without key round robin by batch; while a
            partition's batch is not answered it keeps its turn, for 16 KiB.
    """

    acks: Acks = Acks.ALL
    linger_s: float = 0.0
    batch_bytes: int = 512 * 1024
    request_bytes: int = 1024 * 1024
    buffer_bytes: int = 64 * 1024 * 1024
    delivery_timeout_s: float = 120.0
    request_timeout_s: float = 30.0
    in_flight: int = 5
    retry_delay_s: float = 0.02
    retry_delay_max_s: float = 1.0
    compression: Compression = Compression.NONE
    partitioner: Partitioner | None = None

    def __post_init__(self) -> None:
        raise_for(
            "ProducerOptions",
            [
                (self.linger_s >= 0, "linger_s must not be negative"),
                (
                    self.batch_bytes >= _BATCH_BYTES_MIN,
                    f"batch_bytes {self.batch_bytes} must be at least {_BATCH_BYTES_MIN}",
                ),
                (
                    self.request_bytes >= self.batch_bytes,
                    (
                        f"request_bytes {self.request_bytes} must be at least batch_bytes"
                        f" {self.batch_bytes}"
                    ),
                ),
                (
                    self.buffer_bytes >= self.batch_bytes,
                    (
                        f"buffer_bytes {self.buffer_bytes} must be at least batch_bytes"
                        f" {self.batch_bytes}"
                    ),
                ),
                (
                    self.delivery_timeout_s > self.linger_s,
                    (
                        f"delivery_timeout_s {self.delivery_timeout_s} must exceed linger_s"
                        f" {self.linger_s}"
                    ),
                ),
                _wait_rule("request_timeout_s", self.request_timeout_s),
                (1 <= self.in_flight <= 5, f"in_flight {self.in_flight} must be 1 to 5"),
                (
                    0 < self.retry_delay_s <= self.retry_delay_max_s,
                    (
                        f"retry_delay_s {self.retry_delay_s} must be positive and at most"
                        f" retry_delay_max_s {self.retry_delay_max_s}"
                    ),
                ),
            ],
        )


class DeliveryGuarantee(enum.Enum):
    """When a consumer's offsets are committed."""

    AT_LEAST_ONCE = "at_least_once"
    """After the record was processed: a crash repeats some."""
    AT_MOST_ONCE = "at_most_once"
    """Before the record is handed out: a crash loses some."""


class Isolation(enum.Enum):
    """Which records a consumer sees."""

    READ_COMMITTED = "read_committed"
    READ_UNCOMMITTED = "read_uncommitted"


Start: TypeAlias = Literal["earliest", "latest", "none"] | datetime | timedelta
"""Where to begin without a committed offset: an end, a moment, or so long ago."""


RebalanceCallback: TypeAlias = Callable[[Sequence[TopicPartition]], Awaitable[None] | None]
"""Called with partitions in order; may be a coroutine function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """How a consumer reads and commits.

    Attributes:
        group: None reads without a group: every partition of the topics, or those of `assign`;
            nothing is committed.
        instance_id: Set for a static member, which keeps its partitions over a restart.
        start: Where to begin without a committed offset, or when it is out of range.
        delivery: When offsets are committed.
        auto_commit: False leaves commits to the application.
        commit_interval_s: How often processed offsets are written.
        isolation: Which records are seen.
        fetch_bytes: Fetched and not yet handed out, over all partitions.
        partition_fetch_bytes: The same for one partition.
        min_bytes: A node waits for so much, at most `max_wait_s`; 0 or 1: it never waits.
        max_wait_s: See `min_bytes`.
        rebalance_timeout_s: How long the application may take to let go of partitions.
        max_processing_time_s: None: a handler that takes long is reported, never expelled.
        on_assigned: Told of new partitions before a record of them is handed out; may seek.
        on_revoked: Told of partitions to give up, after their processed offsets were committed.
        on_lost: Told of partitions that others may read already; None: `on_revoked` is told.
    """

    group: str | None = None
    instance_id: str | None = None
    start: Start = "earliest"
    delivery: DeliveryGuarantee = DeliveryGuarantee.AT_LEAST_ONCE
    auto_commit: bool = True
    commit_interval_s: float = 1.0
    isolation: Isolation = Isolation.READ_COMMITTED
    fetch_bytes: int = 32 * 1024 * 1024
    partition_fetch_bytes: int = 4 * 1024 * 1024
    min_bytes: int = 0
    max_wait_s: float = 0.0
    rebalance_timeout_s: float = 60.0
    max_processing_time_s: float | None = None
    on_assigned: RebalanceCallback | None = None
    on_revoked: RebalanceCallback | None = None
    on_lost: RebalanceCallback | None = None

    def __post_init__(self) -> None:
        raise_for(
            "ConsumerOptions",
            [
                (self.group != "", "group must not be empty"),
                (
                    self.instance_id is None or bool(self.instance_id and self.group),
                    "instance_id must not be empty, and needs a group",
                ),
                _name_rule("instance_id", self.instance_id or ""),
                (
                    isinstance(self.start, datetime | timedelta)
                    or self.start in {"earliest", "latest", "none"},
                    (
                        f"start {self.start!r} must be 'earliest', 'latest', 'none',"
                        " a datetime or a timedelta"
                    ),
                ),
                (self.commit_interval_s > 0, "commit_interval_s must be positive"),
                (
                    0 < self.partition_fetch_bytes <= self.fetch_bytes <= _UINT32_MAX,
                    (
                        f"partition_fetch_bytes {self.partition_fetch_bytes} must be positive and"
                        f" at most fetch_bytes {self.fetch_bytes}, which is at most {_UINT32_MAX}"
                    ),
                ),
                (
                    0 <= self.min_bytes <= _UINT32_MAX,
                    f"min_bytes {self.min_bytes} must be 0 to {_UINT32_MAX}",
                ),
                (
                    0 <= self.max_wait_s <= _WAIT_S_MAX,
                    f"max_wait_s {self.max_wait_s} must be 0 to {_WAIT_S_MAX}",
                ),
                _wait_rule("rebalance_timeout_s", self.rebalance_timeout_s),
                (
                    self.max_processing_time_s is None or self.max_processing_time_s > 0,
                    "max_processing_time_s must be positive",
                ),
            ],
        )


def default_client_id() -> str:
    """Return a name for people: host and process."""
    return f"{socket.gethostname()}-{os.getpid()}"


def parse_bootstrap(addresses: str) -> tuple[str, ...]:
    """Split `host:port,host:port`; a port left out is 7070."""
    parts = (part.strip() for part in addresses.split(","))
    return tuple(part if ":" in part else f"{part}:{DEFAULT_PORT}" for part in parts if part)


def _address_rule(address: str) -> tuple[bool, str]:
    host, _, port = address.rpartition(":")
    valid = (
        _HOST.fullmatch(host) is not None
        and port.isascii()
        and port.isdigit()
        and 0 < int(port) < 1 << 16
    )
    return valid, f"{address!r} is not host:port, such as localhost:{DEFAULT_PORT} or [::1]:7071"


def _wait_rule(name: str, wait_s: float) -> tuple[bool, str]:
    holds = 0 < wait_s <= _WAIT_S_MAX
    return holds, f"{name} {wait_s} must be positive and at most {_WAIT_S_MAX}"


def _name_rule(name: str, text: str) -> tuple[bool, str]:
    try:
        check_identifier(text, field=name)
    except InvalidRequestError as error:
        return False, error.message
    return True, ""


def raise_for(options: str, rules: list[tuple[bool, str]]) -> None:
    """Raise one error with the reason of each rule that does not hold."""
    reasons = tuple(reason for holds, reason in rules if not holds)
    if reasons:
        raise InvalidOptionsError(options, reasons)
