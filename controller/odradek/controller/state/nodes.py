"""Which nodes there are, and which may lead. Pure.

Problem: a process that died and came back must not be taken for the one it was. Idea: each
registration begins a new incarnation, fenced, and takes the node out of whatever it led; it is
unfenced once it has seen its own registration. The data directory, not the process, owns a node id.
A registration is a compare-and-set on the incarnation in force: a request of a dead process that
comes late neither takes the place of its successor, nor tells of a loss that was made good since.

Invariants: incarnations are unique in the cluster and grow; a repeated registration of one process
gets the same one; one that others have overtaken changes nothing; a fenced node leads nothing.

Source: Apache Kafka's ClusterControlManager and BrokerHeartbeatManager (KIP-631); KIP-858.
"""

from dataclasses import dataclass

from odradek.controller.state.elections import depose, forget, promote, retire
from odradek.controller.state.image import ClusterImage, Draft
from odradek.controller.state.records import (
    Node,
    NodeConditionChanged,
    NodeFenced,
    NodeRegistered,
    NodeUnfenced,
)
from odradek.protocol.errors import (
    DuplicateNodeRegistrationError,
    InconsistentClusterIdError,
    InvalidRequestError,
    NodeIdNotRegisteredError,
    StaleBrokerEpochError,
)
from odradek.protocol.names import check_identifier
from odradek.protocol.types import Incarnation, NodeId

UUID_BYTES = 16
_NODE_ID_MAX = 2**31 - 1
_NEVER_REGISTERED = Incarnation(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterNode:
    """A process asks for admission.

    Attributes:
        cluster_id: The cluster its data directory belongs to; empty for a fresh one.
        lost_data: Synced data is missing.
        unclean_boot: Its machine went down: page caches are lost.
        synced_metadata_version: But for what was acknowledged under this version or a later one, to
            partitions with `flush=os` then.
        replace: Take the place of a fenced node whose data directory is gone.
        store_set_aside: A damaged store lies beside the present one: whoever has only that has
            nothing, and begins empty only when an operator says so.
        previous_incarnation: The registration whose place it takes; 0 when there is none.
    """

    cluster_id: str
    node_id: NodeId
    directory_id: bytes
    process_id: bytes
    host: str
    port: int
    rack: str = ""
    lost_data: bool = False
    unclean_boot: bool = False
    synced_metadata_version: int = 0
    replace: bool = False
    software_version: str = ""
    store_set_aside: bool = False
    previous_incarnation: Incarnation = _NEVER_REGISTERED


@dataclass(frozen=True, slots=True)
class FenceNode:
    """The node is dead, silent, or has stopped leading because it wishes to stop."""

    node_id: NodeId
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class UnfenceNode:
    """The node has seen its registration and what followed."""

    node_id: NodeId
    incarnation: Incarnation
    version: int


@dataclass(frozen=True, slots=True)
class RetireNode:
    """The node wishes to stop: what it leads should move before it does."""

    node_id: NodeId
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class ReportStorage:
    """The node reached its disk reserve, or has room again."""

    node_id: NodeId
    incarnation: Incarnation
    full: bool


@dataclass(frozen=True, slots=True)
class Registration:
    """The admission."""

    incarnation: Incarnation


def register(draft: Draft, request: RegisterNode) -> Registration:
    """Admit a process as its node's next incarnation, fenced.

    Raises:
        InvalidRequestError: A field out of bounds.
        InconsistentClusterIdError: The data directory belongs to another cluster.
        DuplicateNodeRegistrationError: The id belongs to another data directory, or this data
            directory to another id.
        StaleBrokerEpochError: Another incarnation is in force than the previous one it knows of;
            the limit names it.
    """
    _check_fields(request)
    image = draft.image
    if request.cluster_id and request.cluster_id != image.cluster_id:
        raise InconsistentClusterIdError(
            f"node {request.node_id} has data of cluster {request.cluster_id[:64]!r}; this is"
            f" cluster {image.cluster_id!r}",
            field="cluster_id",
            value=request.cluster_id[:64],
            limit=image.cluster_id,
        )
    known = image.nodes.get(request.node_id)
    if (
        known is not None
        and known.process_id == request.process_id
        and known.directory_id == request.directory_id
    ):
        return Registration(known.incarnation)
    _check_directory(image, known, request)
    _check_previous(known, request)
    incarnation = image.next_incarnation
    if known is not None:
        _end_incarnation(draft, known, request)
    draft.record(
        NodeRegistered(
            Node(
                node_id=request.node_id,
                incarnation=incarnation,
                directory_id=request.directory_id,
                process_id=request.process_id,
                host=request.host,
                port=request.port,
                rack=request.rack,
                software_version=request.software_version,
                draining=known is not None and known.draining,
                store_set_aside=request.store_set_aside,
            )
        )
    )
    return Registration(incarnation)


def fence(draft: Draft, request: FenceNode) -> None:
    """Fence an incarnation that is still in force, and elect others where it led."""
    node = _in_force(draft.image, request.node_id, request.incarnation)
    if node is None or node.fenced:
        return
    draft.record(NodeFenced(request.node_id))
    depose(draft, request.node_id)


def retire_node(draft: Draft, request: RetireNode) -> None:
    """Move leaderships away from an incarnation that wishes to stop, where others can take them."""
    node = _in_force(draft.image, request.node_id, request.incarnation)
    if node is None or node.fenced or node.stopping:
        return
    change_condition(draft, node, stopping=True)
    retire(draft, node.node_id)


def report_storage(draft: Draft, request: ReportStorage) -> None:
    """Remember whether a node has room: nobody is placed or elected where there is none."""
    node = _in_force(draft.image, request.node_id, request.incarnation)
    if node is not None and node.storage_full is not request.full:
        draft.record(NodeConditionChanged(node.node_id, node.stopping, node.draining, request.full))


def change_condition(
    draft: Draft,
    node: Node,
    *,
    stopping: bool | None = None,
    draining: bool | None = None,
    storage_full: bool | None = None,
) -> None:
    """Record a node's condition; what is None stays."""
    draft.record(
        NodeConditionChanged(
            node.node_id,
            stopping=node.stopping if stopping is None else stopping,
            draining=node.draining if draining is None else draining,
            storage_full=node.storage_full if storage_full is None else storage_full,
        )
    )


def unfence(draft: Draft, request: UnfenceNode) -> None:
    """Unfence an incarnation in force that has caught up, and let it lead where nobody does."""
    node = _in_force(draft.image, request.node_id, request.incarnation)
    if node is None or not node.fenced or request.version < node.fenced_version:
        return
    draft.record(NodeUnfenced(request.node_id))
    promote(draft, request.node_id)


def check_incarnation(image: ClusterImage, node_id: NodeId, incarnation: Incarnation) -> Node:
    """Return the node that speaks.

    Raises:
        NodeIdNotRegisteredError: There is none of this id.
        StaleBrokerEpochError: It has registered again since, or never got this incarnation.
    """
    node = image.nodes.get(node_id)
    if node is None:
        raise NodeIdNotRegisteredError(
            f"no node is registered under id {node_id}", field="node_id", value=node_id
        )
    if node.incarnation != incarnation:
        raise StaleBrokerEpochError(
            f"node {node_id} speaks as incarnation {incarnation}; in force is {node.incarnation}",
            field="incarnation",
            value=incarnation,
            limit=node.incarnation,
        )
    return node


def _in_force(image: ClusterImage, node_id: NodeId, incarnation: Incarnation) -> Node | None:
    node = image.nodes.get(node_id)
    return node if node is not None and node.incarnation == incarnation else None


def _end_incarnation(draft: Draft, known: Node, request: RegisterNode) -> None:
    """End the leaderships of the incarnation before, and what its replicas are trusted with.

    All of it before the registration: should only a part be committed, the node is not admitted
    and asks again.
    """
    if not known.fenced:
        draft.record(NodeFenced(known.node_id))
    depose(draft, known.node_id)
    gone = known.directory_id != request.directory_id
    if gone or request.lost_data or request.unclean_boot:
        synced = None if gone or request.lost_data else request.synced_metadata_version
        forget(draft, known.node_id, synced_version=synced, gone=gone)


def _check_directory(image: ClusterImage, known: Node | None, request: RegisterNode) -> None:
    if known is not None and known.directory_id != request.directory_id:
        if request.replace and known.fenced:
            return
        way_out = (
            "it is still alive"
            if request.replace
            else "choose another id, or start with --replace if that directory is gone for good"
        )
        raise DuplicateNodeRegistrationError(
            f"node id {request.node_id} belongs to data directory {known.directory_id.hex()} at"
            f" {known.host}:{known.port}; {way_out}",
            field="node_id",
            value=request.node_id,
        )
    for other in image.nodes.values():
        if other.directory_id == request.directory_id and other.node_id != request.node_id:
            raise DuplicateNodeRegistrationError(
                f"data directory {request.directory_id.hex()} belongs to node {other.node_id}, not"
                f" {request.node_id}",
                field="directory_id",
                value=request.directory_id.hex(),
                limit=other.node_id,
            )


def _check_previous(known: Node | None, request: RegisterNode) -> None:
    in_force = _NEVER_REGISTERED if known is None else known.incarnation
    if request.previous_incarnation != in_force:
        raise StaleBrokerEpochError(
            f"node {request.node_id} registers after incarnation {request.previous_incarnation};"
            f" in force is {in_force}",
            field="previous_incarnation",
            value=request.previous_incarnation,
            limit=in_force,
        )


def _check_fields(request: RegisterNode) -> None:
    if not 0 <= request.node_id <= _NODE_ID_MAX:
        raise InvalidRequestError(
            f"node id {request.node_id} is out of bounds",
            field="node_id",
            value=request.node_id,
            limit=f"0..{_NODE_ID_MAX}",
        )
    uuids = (("directory_id", request.directory_id), ("process_id", request.process_id))
    for field, uuid in uuids:
        if len(uuid) != UUID_BYTES:
            raise InvalidRequestError(
                f"{field} has {len(uuid)} bytes; it must have {UUID_BYTES}",
                field=field,
                value=uuid[:UUID_BYTES].hex(),
                limit=UUID_BYTES,
            )
    check_identifier(request.host, field="host")
    check_identifier(request.rack, field="rack")
    check_identifier(request.software_version, field="software_version")
    if not request.host or not 0 < request.port <= 65535:
        raise InvalidRequestError(
            f"node {request.node_id} advertises {request.host!r}:{request.port}; others could not"
            " dial it",
            field="port" if request.host else "host",
            value=request.port if request.host else request.host,
            limit="1..65535" if request.host else "1..255 characters",
        )
