"""The SDK's own errors, as objects."""

import copy
import pickle

import pytest

from odradek.client import errors
from odradek.protocol.errors import OdradekError, UnknownTopicOrPartitionError

UNKNOWN = UnknownTopicOrPartitionError(
    "no such topic", field="topic", value="t", suggestions=("u",)
)


@pytest.mark.parametrize(
    "error",
    [
        UNKNOWN,
        errors.InvalidOptionsError("ProducerOptions", ("one", "two")),
        errors.SerializationError("t", part="key", key="k", serde="int64", reason="no int"),
        errors.DeserializationError("t", 0, 7, part="value", serde="json", reason="no JSON"),
        errors.NoCommittedOffsetError("t", 0, "g"),
        errors.LogTruncatedError("t", 0, position=9, end_offset=5),
        errors.DeliveryTimeoutError("late", topic="t", partition=0, maybe_appended=True),
        errors.DeliveryAbandonedError("ended", topic="t", partition=0, maybe_appended=False),
        errors.ClientClosedError("the client is closed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_a_process_pool_and_a_copy(error: OdradekError) -> None:
    error.add_note("while testing")
    for found in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(found) is type(error)
        assert str(found) == str(error)
        assert vars(found) == vars(error)


def test_failed_deliveries_keep_their_causes_in_a_process_pool() -> None:
    failed = errors.DeliveryFailedError(3, (UNKNOWN,))
    found = pickle.loads(pickle.dumps(failed))
    assert found.record_count == 3
    assert [str(each) for each in found.errors] == ["no such topic"]
