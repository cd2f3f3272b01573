"""The blocking admin face: the methods of `odradek.client.Admin`, each without `await`."""

from odradek.client.administration.admin import Admin as AsyncAdmin
from odradek.client.blocking.portal import Portal


class Admin:
    """Topics, settings, groups and the cluster; every method as in `odradek.client.Admin`."""

    def __init__(self, inner: AsyncAdmin, portal: Portal) -> None:
        face = portal.face
        self.create_topic = face(inner.create_topic)
        self.create_topics = face(inner.create_topics)
        self.delete_topic = face(inner.delete_topic)
        self.list_topics = face(inner.list_topics)
        self.describe_topic = face(inner.describe_topic)
        self.describe_topics = face(inner.describe_topics)
        self.create_partitions = face(inner.create_partitions)
        self.alter_config = face(inner.alter_config)
        self.describe_config = face(inner.describe_config)
        self.describe_cluster = face(inner.describe_cluster)
        self.alter_replication = face(inner.alter_replication)
        self.reassign = face(inner.reassign)
        self.list_reassignments = face(inner.list_reassignments)
        self.drain_node = face(inner.drain_node)
        self.remove_node = face(inner.remove_node)
        self.list_groups = face(inner.list_groups)
        self.describe_group = face(inner.describe_group)
        self.delete_group = face(inner.delete_group)
        self.committed_offsets = face(inner.committed_offsets)
        self.delete_offsets = face(inner.delete_offsets)
        self.list_offsets = face(inner.list_offsets)
        self.reset_offsets = face(inner.reset_offsets)
