"""The settings of a topic: key, default, bounds and one sentence each. Pure.

Problem: the controller validates settings, nodes obey them, the CLI explains them; all three must
read the same table. Idea: one table of `Setting`s; what travels and is replicated are only the
settings that differ from their defaults, as text (`TopicMetadata.config`); `TopicConfig` is what
they mean, typed, in seconds and bytes.

Invariants: every field of `TopicConfig` is fed by exactly one key; `parse_topic_config({})` never
fails; whatever it accepts once, it accepts always (the controller's log is replayed).

Source: Apache Kafka's TopicConfig; keys and defaults are Kafka's unless SEMANTICS says otherwise.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from odradek.protocol.errors import InvalidConfigError
from odradek.protocol.names import near_names

_INT64_MAX = 2**63 - 1
# Longer ones would not fit a float in whole milliseconds; it is 285,000 years.
_DURATION_MS_MAX = 2**53
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
# A request may hold thousands; the message stays one that a person reads.
_MISTAKES_TOLD_MAX = 10

MAX_MESSAGE_BYTES_MIN = 1024
# A batch is held in memory several times over on its way; above this, store a reference instead.
MAX_MESSAGE_BYTES_MAX = 32 * 1024 * 1024

MAJORITY = "majority"
"""The text that stands for the default of `min.insync.replicas`: replication // 2 + 1."""


class CleanupPolicy(Enum):
    """How old records go."""

    DELETE = "delete"
    COMPACT = "compact"
    COMPACT_DELETE = "compact,delete"


class Flush(Enum):
    """What an acknowledgement promises."""

    COMMIT = "commit"
    OS = "os"


class TimestampType(Enum):
    """Whose clock stamps the records."""

    CREATE_TIME = "CreateTime"
    LOG_APPEND_TIME = "LogAppendTime"


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table.

    Attributes:
        key: Its name, as Kafka's.
        default: Its default, as text.
        documentation: One sentence for a person.
        minimum: The smallest number allowed; None when the values are words.
        maximum: The largest number allowed.
        choices: The words allowed; besides numbers when both are given.
    """

    key: str
    default: str
    documentation: str
    minimum: int | None = None
    maximum: int = _INT64_MAX
    choices: tuple[str, ...] = ()

    @property
    def limit(self) -> str:
        """What is allowed, for a person."""
        words = " | ".join(self.choices)
        if self.minimum is None:
            return words
        numbers = f"{self.minimum}..{self.maximum}"
        return f"{numbers} | {words}" if words else numbers


def _words(kind: type[Enum]) -> tuple[str, ...]:
    return tuple(str(member.value) for member in kind)


_TABLE = (
    Setting(
        "cleanup.policy",
        CleanupPolicy.DELETE.value,
        "How old records go: by age and size (delete), all but the last per key (compact), or both"
        " (compact,delete).",
        choices=_words(CleanupPolicy),
    ),
    Setting(
        "delete.retention.ms",
        str(_DAY_MS),
        "How long, in milliseconds, compaction keeps a tombstone after its first clean pass.",
        minimum=0,
        maximum=_DURATION_MS_MAX,
    ),
    Setting(
        "flush",
        Flush.COMMIT.value,
        "What an acknowledgement promises: on the disk of every in-sync replica (commit), or in"
        " their page caches (os).",
        choices=_words(Flush),
    ),
    Setting(
        "max.message.bytes",
        "1048588",
        "The largest batch accepted, in bytes, header included and as compressed by the producer.",
        minimum=MAX_MESSAGE_BYTES_MIN,
        maximum=MAX_MESSAGE_BYTES_MAX,
    ),
    Setting(
        "message.timestamp.after.max.ms",
        str(_HOUR_MS),
        "How far, in milliseconds, a record's timestamp may lie in the future.",
        minimum=0,
        maximum=_DURATION_MS_MAX,
    ),
    Setting(
        "message.timestamp.type",
        TimestampType.CREATE_TIME.value,
        "Whose clock stamps records: the producer's (CreateTime) or the leader's (LogAppendTime).",
        choices=_words(TimestampType),
    ),
    Setting(
        "min.insync.replicas",
        MAJORITY,
        "How many replicas must be in sync for acks=all to be accepted; the default is a majority.",
        minimum=1,
        maximum=32767,
        choices=(MAJORITY,),
    ),
    Setting(
        "retention.bytes",
        "-1",
        "How many bytes of a partition are kept before the oldest go; -1 keeps all.",
        minimum=-1,
    ),
    Setting(
        "retention.ms",
        str(7 * _DAY_MS),
        "How long, in milliseconds, records are kept before they go; -1 keeps them for ever.",
        minimum=-1,
        maximum=_DURATION_MS_MAX,
    ),
)

SETTINGS: Mapping[str, Setting] = {setting.key: setting for setting in _TABLE}
"""Every setting, by key, in alphabetical order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicConfig:
    """What a topic's settings mean.

    Attributes:
        cleanup_policy: How old records go.
        delete_retention_s: How long a tombstone outlives its first clean pass.
        flush: What an acknowledgement promises.
        max_message_bytes: The largest batch accepted.
        timestamp_ahead_max_s: How far a record's timestamp may lie in the future.
        timestamp_type: Whose clock stamps records.
        min_insync_replicas: None: a majority of the replicas (see `min_insync`).
        retention_bytes: None keeps all.
        retention_s: None keeps records for ever.
    """

    cleanup_policy: CleanupPolicy
    delete_retention_s: float
    flush: Flush
    max_message_bytes: int
    timestamp_ahead_max_s: float
    timestamp_type: TimestampType
    min_insync_replicas: int | None
    retention_bytes: int | None
    retention_s: float | None

    def min_insync(self, replication: int) -> int:
        """Return how many replicas of `replication` must be in sync for acks=all."""
        return self.min_insync_replicas or majority(replication)

    @property
    def compacts(self) -> bool:
        """True when only the last record of each key must be kept."""
        return self.cleanup_policy is not CleanupPolicy.DELETE

    @property
    def deletes(self) -> bool:
        """True when records go by age and size."""
        return self.cleanup_policy is not CleanupPolicy.COMPACT


@dataclass(frozen=True, slots=True)
class SettingInForce:
    """One setting of one topic, to be shown.

    Attributes:
        setting: The row of the table.
        value: The value in force, as text.
        is_default: True when the topic does not set it.
    """

    setting: Setting
    value: str
    is_default: bool


def majority(replication: int) -> int:
    """Return the smallest number of replicas that is more than half."""
    return replication // 2 + 1


def parse_topic_config(config: Mapping[str, str]) -> TopicConfig:
    """Return what the settings mean; those absent have their defaults.

    Args:
        config: Settings that differ from the defaults, by key.

    Raises:
        InvalidConfigError: Unknown keys (with near ones) or values out of bounds.
    """
    value = {key: setting.default for key, setting in SETTINGS.items()} | check_settings(config)
    insync = value["min.insync.replicas"]
    retention_bytes = int(value["retention.bytes"])
    retention_ms = int(value["retention.ms"])
    return TopicConfig(
        cleanup_policy=CleanupPolicy(value["cleanup.policy"]),
        delete_retention_s=int(value["delete.retention.ms"]) / 1000,
        flush=Flush(value["flush"]),
        max_message_bytes=int(value["max.message.bytes"]),
        timestamp_ahead_max_s=int(value["message.timestamp.after.max.ms"]) / 1000,
        timestamp_type=TimestampType(value["message.timestamp.type"]),
        min_insync_replicas=None if insync == MAJORITY else int(insync),
        retention_bytes=None if retention_bytes < 0 else retention_bytes,
        retention_s=None if retention_ms < 0 else retention_ms / 1000,
    )


def check_settings(config: Mapping[str, str], *, unset: Iterable[str] = ()) -> dict[str, str]:
    """Return settings with their values in canonical spelling (see `check_setting`).

    Args:
        config: The settings.
        unset: Further keys that must be known.

    Raises:
        InvalidConfigError: Unknown keys or values out of bounds: all of them, a few by their names.
    """
    checked: dict[str, str] = {}
    mistakes: list[InvalidConfigError] = []
    for key in unset:
        try:
            known_setting(key, field="unset")
        except InvalidConfigError as mistake:
            mistakes.append(mistake)
    for key, text in sorted(config.items()):  # as they come, protobuf has shuffled them
        try:
            checked[key] = check_setting(key, text)
        except InvalidConfigError as mistake:
            mistakes.append(mistake)
    if len(mistakes) == 1:
        raise mistakes[0]
    if mistakes:
        told = [mistake.message for mistake in mistakes[:_MISTAKES_TOLD_MAX]]
        untold = len(mistakes) - len(told)
        raise InvalidConfigError(
            "; ".join([*told, f"and {untold} more"] if untold else told),
            field="config",
            value=len(mistakes),
        )
    return checked


def check_setting(key: str, text: str, *, field: str = "config") -> str:
    """Return a value in its canonical spelling (`007` is `7`, `delete,compact` `compact,delete`).

    Raises:
        InvalidConfigError: An unknown key (with near ones) or a value out of bounds.
    """
    setting = known_setting(key, field=field)
    word = ",".join(sorted(part.strip() for part in text.split(",")))
    if word in setting.choices:
        return word
    number = _whole_number(text)
    if (
        setting.minimum is None
        or number is None
        or not setting.minimum <= number <= setting.maximum
    ):
        raise InvalidConfigError(
            f"{key} = {text[:64]!r} is not allowed: use {setting.limit}",
            field=f"{field}.{key}",
            value=text[:64],
            limit=setting.limit,
            suggestions=near_names(text[:64], setting.choices),
        )
    return str(number)


def known_setting(key: str, *, field: str = "config") -> Setting:
    """Return the row of a key.

    Raises:
        InvalidConfigError: There is none; near keys are named.
    """
    setting = SETTINGS.get(key)
    if setting is None:
        near = near_names(key[:64], SETTINGS)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise InvalidConfigError(
            f"unknown topic setting {key[:64]!r}{hint}",
            field=field,
            value=key[:64],
            limit=", ".join(SETTINGS),
            suggestions=near,
        )
    return setting


def settings_in_force(config: Mapping[str, str], *, replication: int) -> list[SettingInForce]:
    """Return every setting of a topic, defaults included, in alphabetical order.

    Args:
        config: The topic's settings that differ from the defaults.
        replication: How many replicas it has; turns a majority into its number.
    """
    shown = []
    for key, setting in SETTINGS.items():
        value = config.get(key, setting.default)
        if value == MAJORITY:
            value = str(majority(replication))
        shown.append(SettingInForce(setting, value, is_default=key not in config))
    return shown


def _whole_number(text: str) -> int | None:
    digits = text.strip()
    bare = digits.removeprefix("-")
    # Twenty digits hold every int64; longer text would only cost time.
    if not (bare.isascii() and bare.isdigit() and len(bare) <= 20):
        return None
    return int(digits)
