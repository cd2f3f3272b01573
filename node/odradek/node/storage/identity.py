"""Whose data directory this is.

Problem: a node started on another's directory, or on one from another cluster, would serve foreign
data under familiar names. Idea: a file beside the store names the cluster, the node and the
directory itself (a uuid that never changes); each start compares, and the controller refuses a
second directory under the same node id.

Invariant: once written, none of the three values changes; the cluster may be filled in once.
"""

import json
import os
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from odradek.node.storage.directories import make_directory, sync_directory
from odradek.protocol.errors import (
    DuplicateNodeRegistrationError,
    InconsistentClusterIdError,
    StorageError,
)
from odradek.protocol.types import NodeId

IDENTITY_FILE = "identity.json"


@dataclass(frozen=True, slots=True)
class Identity:
    """What the file says.

    Attributes:
        node_id: The node that owns the directory.
        directory_uuid: Made with the directory, 36 characters.
        cluster_id: Empty until the node has registered for the first time.
    """

    node_id: NodeId
    directory_uuid: str
    cluster_id: str = ""


def open_identity(directory: Path, node_id: NodeId, cluster_id: str = "") -> Identity:
    """Read who owns a directory, making it the node's when it is new.

    Args:
        directory: Made when missing.
        node_id: The node that is starting.
        cluster_id: Its cluster; empty when it does not know yet (see `bind_cluster`).

    Raises:
        DuplicateNodeRegistrationError: The directory belongs to another node.
        InconsistentClusterIdError: The directory belongs to another cluster.
        StorageError: The file is unreadable.
    """
    path = directory / IDENTITY_FILE
    if not path.exists():
        make_directory(directory)
        identity = Identity(node_id, str(uuid.uuid4()), cluster_id)
        _write(path, identity)
        return identity
    identity = _read(path)
    if identity.node_id != node_id:
        raise DuplicateNodeRegistrationError(
            f"the data directory belongs to node {identity.node_id}, not to node {node_id}",
            field="node_id",
            value=node_id,
            limit=identity.node_id,
        )
    return bind_cluster(directory, identity, cluster_id) if cluster_id else identity


def bind_cluster(directory: Path, identity: Identity, cluster_id: str) -> Identity:
    """Note the cluster at the first registration; later, compare.

    Raises:
        InconsistentClusterIdError: The directory belongs to another cluster.
    """
    if identity.cluster_id == cluster_id:
        return identity
    if identity.cluster_id:
        raise InconsistentClusterIdError(
            f"the data directory belongs to cluster {identity.cluster_id!r}, "
            f"this one is {cluster_id!r}",
            field="cluster_id",
            value=cluster_id,
            limit=identity.cluster_id,
        )
    identity = replace(identity, cluster_id=cluster_id)
    _write(directory / IDENTITY_FILE, identity)
    return identity


def _read(path: Path) -> Identity:
    try:
        return Identity(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise StorageError(
            f"the identity of the data directory is unreadable: {error}", field="identity"
        ) from error


def _write(path: Path, identity: Identity) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        json.dump(asdict(identity), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)
