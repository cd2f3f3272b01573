"""The composition root: makes every part of a node, connects them, and owns every task.

The order of a metadata step is decided here, in `_on_cluster_changed`: image, replicas,
coordination, all without an await, so that nothing sees one without the others.
"""

import asyncio
import time
import uuid
from contextlib import suppress
from importlib.metadata import version
from typing import Final

import structlog

from odradek.node import metrics
from odradek.node.api.admin import AdminServicer
from odradek.node.api.broker import BrokerServicer
from odradek.node.api.group import GroupServicer
from odradek.node.api.metadata import MetadataServicer
from odradek.node.api.replica import ReplicaServicer
from odradek.node.cluster.controller_link import ControllerLink
from odradek.node.cluster.controllers import Controllers
from odradek.node.cluster.membership import Membership, MembershipEvents, NodeIdentity
from odradek.node.cluster.producer_ids import ProducerIds
from odradek.node.cluster.session import Session
from odradek.node.cluster.stale_watches import end_stale_watches
from odradek.node.cluster.translation import update_from_proto
from odradek.node.cluster.view import ClusterView
from odradek.node.config import NodeConfig
from odradek.node.coordination.coordination import Coordination
from odradek.node.coordination.model import GroupTimes
from odradek.node.replication.led import LedPartition
from odradek.node.replication.node_links import NodeLinks
from odradek.node.replication.replicas import Replicas, RoleChanges
from odradek.node.replication.sweep import sweep
from odradek.node.storage.identity import bind_cluster, open_identity
from odradek.node.storage.storage import Storage
from odradek.program.logs import bind_process_fields
from odradek.protocol.errors import NodeShuttingDownError, StorageFullError
from odradek.protocol.names import CONSUMER_OFFSETS
from odradek.protocol.types import NodeId
from odradek.rpc.server import Server
from odradek.v1 import admin_pb2_grpc, controller_pb2, group_pb2_grpc, metadata_pb2_grpc

_log = structlog.get_logger()

_DRAIN_S: Final = 0.5


class Node:
    """One broker node.

    Args:
        config: Its settings.
        storage: Opened by the caller, and closed by it after `run`.
    """

    def __init__(self, config: NodeConfig, storage: Storage) -> None:
        self.config = config
        self.port = 0
        """Where it listens, once `started` is set."""
        self.started = asyncio.Event()
        self.ready = asyncio.Event()
        """Set once the node is unfenced for the first time."""
        self._stopping = self._swept = False
        self._storage = storage
        self._node_id = NodeId(config.id)
        self._identity = open_identity(config.data, self._node_id)
        self._session = Session()
        self._view = ClusterView()
        self._controllers = Controllers(config.controllers)
        self._link = ControllerLink(self._node_id, self._controllers, self._session, self._view)
        self._coordination = Coordination(
            controller=self._link,
            cluster=self._view,
            times=GroupTimes.of_session(config.group_session_timeout_s),
        )
        self._links = NodeLinks(
            self._node_id,
            lambda: self._session.incarnation,
            self._view,
            self._link,
            config.replication_throttle_bytes_per_s,
        )
        self._replicas = Replicas(
            self._node_id,
            storage,
            self._view,
            lapsed=lambda: self._session.lapsed(time.monotonic()),
            new_epochs_needed=self._register_again,
            links=self._links,
        )
        self._links.serve(self._replicas, storage.condemn)
        self._broker = BrokerServicer(self._replicas, ProducerIds(self._link.allocate_producer_ids))
        self._server = self._make_server()

    def _make_server(self) -> Server:
        server = Server(self.config.listen, connections_max=self.config.connections_max)
        replica = ReplicaServicer(self._replicas, self._links)
        server.grpc.add_generic_rpc_handlers((self._broker.handler(), replica.handler()))
        metadata = MetadataServicer(self._view, self._controllers)
        metadata_pb2_grpc.add_MetadataServiceServicer_to_server(metadata, server.grpc)
        admin = AdminServicer(self._view, self._controllers, self._link, self._links.lags)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(admin, server.grpc)
        group = GroupServicer(self._node_id, self._coordination, self._view, self._link)
        group_pb2_grpc.add_GroupServiceServicer_to_server(group, server.grpc)
        return server

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then leave the cluster in good order.

        Raises:
            MembershipRefusedError: The cluster will not have this node.
            AddressInUseError: Somebody else listens there.
        """
        try:
            self.port = await self._server.start()
            self._membership = self._make_membership()
            async with asyncio.TaskGroup() as self._tasks:
                running = [
                    self._tasks.create_task(self._membership.run(), name="membership"),
                    self._tasks.create_task(self._replicas.run(), name="replicas"),
                    self._tasks.create_task(self._links.run(), name="links"),
                    self._tasks.create_task(self._coordination.run(), name="coordination"),
                    self._tasks.create_task(
                        end_stale_watches(self._session, self._view), name="stale watches"
                    ),
                ]
                self.started.set()
                _log.info("listening", address=self.config.listen, port=self.port)
                await stop.wait()
                await self._leave()
                for task in running:
                    task.cancel()
        except ExceptionGroup as failures:
            raise _first_of(failures) from None
        finally:
            await self._server.drain(0)
            await self._controllers.close()

    def _make_membership(self) -> Membership:
        host, port = self._advertised()
        recovered = self._storage.recovered
        identity = NodeIdentity(
            node_id=self._node_id,
            cluster_id=self._identity.cluster_id,
            directory_id=uuid.UUID(self._identity.directory_uuid).bytes,
            host=host,
            port=port,
            rack=self.config.rack,
            lost_data=recovered.lost_data,
            unclean_boot=recovered.lost_pages,
            synced_metadata_version=recovered.metadata_version,
            replace=self.config.replace,
            software_version=version("odradek"),
            store_set_aside=self._storage.has_set_aside and not self.config.replace,
        )
        events = MembershipEvents(
            registered=self._on_registered,
            cluster_changed=self._on_cluster_changed,
            fenced_changed=self._on_fenced_changed,
            storage_full=lambda: self._storage.is_full,
        )
        return Membership(identity, self._controllers, self._session, events)

    def _advertised(self) -> tuple[str, int]:
        address = self.config.advertised_address(self.port)
        host, _, port = address.rpartition(":")
        return host, int(port)

    def _register_again(self) -> None:
        self._membership.register_again()

    # What membership tells

    def _on_registered(self, response: controller_pb2.RegisterNodeResponse) -> None:
        self._identity = bind_cluster(self.config.data, self._identity, response.cluster_id)
        self._view.cluster_id = response.cluster_id
        bind_process_fields(cluster=response.cluster_id)
        metrics.FENCED.set(1)
        self._tasks.create_task(self._storage.recovery_told(), name="recovery told")

    def _on_cluster_changed(self, response: controller_pb2.WatchClusterResponse) -> None:
        if self._storage.is_reopening:
            raise StorageFullError("no log can be opened before the store is")
        before = self._view.image
        update = update_from_proto(response.metadata)
        if update.snapshot or update.version > before.version:
            self._view.publish(update)
            changes = self._replicas.reconcile(before, update)
            if update.topics or update.snapshot:
                self._storage.on_settings_taken(update.version)
            if update.nodes or update.snapshot:
                self._links.on_nodes_changed()
            self._tell_coordination(changes)
            if not self._swept:
                self._swept = True
                sweeping = sweep(self._storage, self._view, self._replicas)
                self._tasks.create_task(sweeping, name="sweep")
            metrics.METADATA_VERSION.set(update.version)
        if response.groups or response.removed_groups or update.snapshot:
            self._coordination.on_groups(
                response.groups, response.removed_groups, snapshot=update.snapshot
            )

    def _tell_coordination(self, changes: RoleChanges) -> None:
        for replica in changes.resigned:
            if replica.topic.name == CONSUMER_OFFSETS:
                self._coordination.on_resigned(replica.partition.index)
        for replica in changes.leading:
            if replica.topic.name == CONSUMER_OFFSETS:
                led = LedPartition(self._replicas, replica)
                self._coordination.on_leading(replica.partition.index, led)

    def _on_fenced_changed(self, fenced: bool) -> None:  # noqa: FBT001
        metrics.FENCED.set(fenced)
        self._tasks.create_task(self._server.health.set(serving=not fenced))
        if fenced and not self._stopping:
            _log.warning("fenced: this node leads nothing until it has caught up")
        elif not fenced and not self.ready.is_set():
            self.ready.set()
            host, port = self._advertised()
            _log.info(
                "ready",
                address=f"{host}:{port}",
                port=self.port,
                partitions=len(self._replicas),
                lost_data=self._storage.recovered.lost_data,
            )

    # Leaving

    async def _leave(self) -> None:
        """Have the leaderships moved, finish what has begun, note high watermarks."""
        self._stopping = True
        _log.info("stopping")
        await self._server.health.set(serving=False)
        if self.ready.is_set():
            self._membership.announce_shutdown()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.config.shutdown_grace_s):
                    await self._membership.may_shut_down.wait()
        self._replicas.checkpoint()
        self._broker.stop()
        self._replicas.resign_all(NodeShuttingDownError())
        self._links.stop()
        await self._server.drain(min(_DRAIN_S, self.config.shutdown_grace_s))


def _first_of(failures: BaseExceptionGroup[Exception]) -> Exception:
    """Return the first failure of nested task groups: the others follow from it."""
    first = failures.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
