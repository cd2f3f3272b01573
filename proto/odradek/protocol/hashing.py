"""Where a key and a group belong: murmur2 as Apache Kafka's Java client computes it.

Records of equal keys land in equal partitions whichever client produced them, Java's included.

Source: Austin Appleby's MurmurHash2 (32 bit, seed 0x9747b28c), org.apache.kafka.common.utils.Utils.
"""

from functools import lru_cache

from odradek.protocol.types import PartitionIndex

_SEED = 0x9747B28C
_MULTIPLIER = 0x5BD1E995
_MASK = 0xFFFFFFFF
_POSITIVE = 0x7FFFFFFF


def murmur2(key: bytes) -> int:
    """Return the hash as an unsigned 32-bit number."""
    length = len(key)
    hashed = _SEED ^ length
    whole = length & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(key[start : start + 4], "little") * _MULTIPLIER & _MASK
        word = (word ^ word >> 24) * _MULTIPLIER & _MASK
        hashed = hashed * _MULTIPLIER & _MASK ^ word
    if whole < length:
        hashed = (hashed ^ int.from_bytes(key[whole:], "little")) * _MULTIPLIER & _MASK
    hashed = (hashed ^ hashed >> 13) * _MULTIPLIER & _MASK
    return hashed ^ hashed >> 15


# 4 microseconds a key in Python: producers repeat their keys, so remember the last ones.
@lru_cache(maxsize=65_536)
def _positive_hash(key: bytes) -> int:
    return murmur2(key) & _POSITIVE


def partition_for_key(key: bytes, partition_count: int) -> PartitionIndex:
    """Return the partition of an encoded key."""
    return PartitionIndex(_positive_hash(key) % partition_count)


def coordinator_partition(group: str, partition_count: int) -> PartitionIndex:
    """Return the partition of an internal topic that holds a group or a transactional id."""
    return partition_for_key(group.encode(), partition_count)
