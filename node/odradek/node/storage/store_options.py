"""How the store uses memory and disk."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """How the store uses memory and disk.

    Attributes:
        memtable_bytes: Writes are gathered in memory up to this, then written as a table.
        memtables_max: So many may wait for the disk before writes stall.
        block_cache_bytes: For tables' indexes and small values; batches are never cached here.
        value_bytes_min: Smaller batches lie in RocksDB, larger ones in the value log.
        inline_bytes_max: While a commit has no more bytes of batches than this, they all lie in
            RocksDB: writing them again later costs less than syncing two files.
        segment_bytes: Of one file of the value log.
        page_cache_bytes: The value log's newest bytes stay in the kernel's page cache; older ones
            are read from the disk.
    """

    memtable_bytes: int = 16 << 20
    memtables_max: int = 4
    block_cache_bytes: int = 16 << 20
    value_bytes_min: int = 4 << 10
    inline_bytes_max: int = 64 << 10
    segment_bytes: int = 64 << 20
    page_cache_bytes: int = 512 << 20
