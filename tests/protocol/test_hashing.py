"""Keys land where Apache Kafka's clients put them."""

import pytest

from odradek.protocol.hashing import coordinator_partition, murmur2, partition_for_key


# From org.apache.kafka.common.utils.UtilsTest.testMurmur2.
@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_equals_the_java_client(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected & 0xFFFFFFFF


def test_a_partition_is_always_in_range() -> None:
    for number in range(1000):
        assert 0 <= partition_for_key(b"%d" % number, 7) < 7
    assert 0 <= coordinator_partition("group", 16) < 16
