"""Where batches live: one RocksDB per node, group commit, recovery, caches.

`Storage` is the door: it opens the data directory and hands out a `PartitionLog` per partition
replica and a `StateTable` per kind of small state. `GroupCommit` tells when appends are durable.
"""

from odradek.node.storage.durable_mark import RecoveryReport
from odradek.node.storage.epochs import EpochEnd, LeaderEpochs
from odradek.node.storage.group_commit import GroupCommit
from odradek.node.storage.identity import Identity, bind_cluster, open_identity
from odradek.node.storage.keys import Table
from odradek.node.storage.log import Appended, PartitionLog
from odradek.node.storage.log_reader import TimestampOffset
from odradek.node.storage.storage import Storage, StorageOptions
from odradek.node.storage.store_options import StoreOptions
from odradek.node.storage.tables import StateTable

__all__ = [
    "Appended",
    "EpochEnd",
    "GroupCommit",
    "Identity",
    "LeaderEpochs",
    "PartitionLog",
    "RecoveryReport",
    "StateTable",
    "Storage",
    "StorageOptions",
    "StoreOptions",
    "Table",
    "TimestampOffset",
    "bind_cluster",
    "open_identity",
]
