"""Topic settings: the defaults a Kafka user expects, and errors that name the way out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odradek.protocol.errors import InvalidConfigError
from odradek.protocol.topic_config import (
    SETTINGS,
    CleanupPolicy,
    Flush,
    TimestampType,
    check_setting,
    parse_topic_config,
    settings_in_force,
)


def test_defaults_are_those_of_the_semantics_page() -> None:
    config = parse_topic_config({})
    assert config.retention_s == 7 * 24 * 3600
    assert config.retention_bytes is None
    assert config.cleanup_policy is CleanupPolicy.DELETE
    assert config.max_message_bytes == 1_048_588
    assert config.flush is Flush.COMMIT
    assert config.timestamp_type is TimestampType.CREATE_TIME
    assert config.timestamp_ahead_max_s == 3600
    assert [config.min_insync(replication) for replication in (1, 2, 3, 5)] == [1, 2, 2, 3]


def test_settings_override_defaults() -> None:
    config = parse_topic_config(
        {
            "retention.ms": "-1",
            "retention.bytes": "1000",
            "cleanup.policy": "delete, compact",
            "min.insync.replicas": "2",
            "flush": "os",
        }
    )
    assert config.retention_s is None
    assert config.retention_bytes == 1000
    assert config.cleanup_policy is CleanupPolicy.COMPACT_DELETE
    assert config.compacts
    assert config.deletes
    assert config.min_insync(3) == 2
    assert config.flush is Flush.OS


def test_an_unknown_key_names_near_ones() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_topic_config({"retention.msec": "5"})
    assert "retention.ms" in caught.value.suggestions
    assert "retention.msec" in caught.value.message


@pytest.mark.parametrize(
    ("key", "text", "limit"),
    [
        ("retention.ms", "-2", "-1.."),
        ("retention.ms", "soon", "-1.."),
        ("retention.ms", "1" * 5000, "-1.."),
        ("retention.ms", "", "-1.."),
        ("retention.bytes", str(2**63), str(2**63 - 1)),
        ("max.message.bytes", "0", "1024..33554432"),
        ("max.message.bytes", "99999999999", "1024..33554432"),
        ("min.insync.replicas", "0", "1..32767 | majority"),
        ("flush", "always", "commit | os"),
        ("cleanup.policy", "compact,compact", "delete | compact | compact,delete"),
        ("message.timestamp.type", "createtime", "CreateTime | LogAppendTime"),
    ],
)
def test_a_bad_value_names_key_value_and_limit(key: str, text: str, limit: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_topic_config({key: text})
    assert caught.value.field == f"config.{key}"
    assert caught.value.value == text[:64]
    assert limit in caught.value.limit
    assert key in caught.value.message


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_topic_config({"a": "1", "flsh": "os", "flush": "os", "retention.ms": "soon"})
    assert caught.value.message == (
        "unknown topic setting 'a'; unknown topic setting 'flsh' (did you mean flush?);"
        f" retention.ms = 'soon' is not allowed: use {SETTINGS['retention.ms'].limit}"
    )
    assert (caught.value.field, caught.value.value) == ("config", "3")
    with pytest.raises(InvalidConfigError, match=r"'k009'; and 990 more$") as caught:
        parse_topic_config({f"k{number:03}": "" for number in reversed(range(1000))})
    assert "'k010'" not in caught.value.message


@given(st.sampled_from(list(SETTINGS)), st.text(max_size=30) | st.integers().map(str))
def test_a_canonical_value_stays_what_it_is(key: str, text: str) -> None:
    try:
        canonical = check_setting(key, text)
    except InvalidConfigError:
        return
    assert check_setting(key, canonical) == canonical
    parse_topic_config({key: canonical})


def test_every_default_is_within_its_own_bounds() -> None:
    for key, setting in SETTINGS.items():
        assert check_setting(key, setting.default) == setting.default


def test_settings_in_force_show_numbers_and_whence_they_come() -> None:
    shown = {each.setting.key: each for each in settings_in_force({"flush": "os"}, replication=3)}
    assert (shown["flush"].value, shown["flush"].is_default) == ("os", False)
    assert (shown["min.insync.replicas"].value, shown["min.insync.replicas"].is_default) == (
        "2",
        True,
    )
    assert all(each.setting.documentation.endswith(".") for each in shown.values())
