"""What a node still holds of partitions that are gone, or went elsewhere, while it was down.

Problem: nobody tells a node of what happened before it was there. Idea: uids are allocated in order
and never again, so that one below the next which this node does not host is nobody's any more.

Invariant: nothing is dropped on the word of controllers that lost what they knew: they would have
to allocate beyond everything stored here first.
"""

import structlog

from odradek.node.cluster.view import ClusterView
from odradek.node.replication.replicas import Replicas
from odradek.node.storage.storage import Storage

_log = structlog.get_logger()


async def sweep(storage: Storage, view: ClusterView, replicas: Replicas) -> None:
    """Drop what nobody needs; to be called once this node follows its cluster's metadata."""
    next_uid = view.image.next_partition_uid
    stored = await storage.stored_uids()
    if stored and stored[-1] >= next_uid:
        if next_uid:
            _log.error("data of partitions that no controller knows", uid=stored[-1])
        return
    orphans = [uid for uid in stored if replicas.with_uid(uid) is None]
    for uid in orphans:
        replicas.drop_data(uid)
    if orphans:
        _log.info("dropped partitions that are no longer here", count=len(orphans))
