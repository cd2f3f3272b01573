"""An answer made by hand is the one the generated class makes."""

import time

from hypothesis import given
from hypothesis import strategies as st

from odradek.protocol.produced import encode_acknowledged, encode_produce_response
from odradek.protocol.types import Offset, PartitionIndex, TopicId
from odradek.v1 import broker_pb2 as pb

_OFFSETS = st.integers(-1, (1 << 63) - 1)
_RESULTS = st.tuples(
    st.binary(max_size=20), st.integers(0, (1 << 31) - 1), _OFFSETS, _OFFSETS, _OFFSETS
)


@given(st.integers(0, (1 << 64) - 1), st.lists(_RESULTS, max_size=3))
def test_an_answer_is_what_the_generated_class_writes(
    correlation_id: int, results: list[tuple[bytes, int, int, int, int]]
) -> None:
    expected = pb.ProduceResponse(
        correlation_id=correlation_id,
        partitions=[
            pb.ProducePartitionResult(
                topic_id=topic_id,
                partition=partition,
                base_offset=base_offset,
                log_append_time_ms=time_ms,
                log_start_offset=start,
                leader_id=-1,
            )
            for topic_id, partition, base_offset, time_ms, start in results
        ],
    )
    encoded = [
        encode_acknowledged(
            TopicId(topic_id), PartitionIndex(partition), Offset(base), time_ms, Offset(start)
        )
        for topic_id, partition, base, time_ms, start in results
    ]
    assert encode_produce_response(correlation_id, encoded) == expected.SerializeToString()


def test_an_answer_of_many_partitions_costs_no_more_each_than_one_of_few() -> None:
    def seconds(count: int) -> float:
        results = [bytes(180)] * count
        start_s = time.process_time()
        encode_produce_response(1, results)
        return time.process_time() - start_s

    few_s = min(seconds(1_000) for _ in range(5))
    assert min(seconds(20_000) for _ in range(3)) < 3 * 20 * few_s
