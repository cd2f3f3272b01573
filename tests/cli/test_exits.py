"""Exit statuses and advice."""

import pytest

from odradek.client.cli.exits import ExitCode, advice, exit_code
from odradek.protocol import errors
from odradek.rpc.errors import ConnectionLostError


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.UnknownTopicOrPartitionError(), ExitCode.NOT_FOUND),
        (errors.GroupIdNotFoundError(), ExitCode.NOT_FOUND),
        (errors.NodeIdNotRegisteredError(), ExitCode.NOT_FOUND),
        (errors.OffsetOutOfRangeError(), ExitCode.USAGE),
        (errors.InvalidTopicError(), ExitCode.USAGE),
        (errors.InvalidPartitionsError(), ExitCode.USAGE),
        (ConnectionLostError(), ExitCode.UNAVAILABLE),
        (errors.LeaderNotAvailableError(), ExitCode.UNAVAILABLE),
        (errors.TopicAlreadyExistsError(), ExitCode.FAILURE),
        (errors.UnknownServerError(), ExitCode.FAILURE),
    ],
)
def test_a_script_can_tell_failures_apart(error: errors.OdradekError, status: ExitCode) -> None:
    assert exit_code(error) is status


def test_near_names_come_first() -> None:
    error = errors.UnknownTopicOrPartitionError("no topic 'positons'", suggestions=("positions",))
    assert advice(error, bootstrap="here:1") == "Did you mean positions?"


def test_every_kind_says_what_to_do_next() -> None:
    assert "topics list" in advice(errors.UnknownTopicOrPartitionError(), bootstrap="here:1")
    assert "groups list" in advice(errors.GroupIdNotFoundError(), bootstrap="here:1")
    assert "cluster status" in advice(errors.NodeIdNotRegisteredError(), bootstrap="here:1")
    assert "--if-not-exists" in advice(errors.TopicAlreadyExistsError(), bootstrap="here:1")
    assert "here:1" in advice(ConnectionLostError(), bootstrap="here:1")
    assert "odradek dev" in advice(ConnectionLostError(), bootstrap="here:1")
    too_large = errors.RecordTooLargeError("too large", limit=1048588)
    assert "1048588" in advice(too_large, bootstrap="here:1")


def test_a_missing_partition_is_not_a_missing_topic() -> None:
    missing = errors.UnknownTopicOrPartitionError("there is no 9", field="partition", value=9)
    assert advice(missing, bootstrap="here:1") == ""
