"""One controller, put together: the log, the state, who decides, who is told, and the server."""

import asyncio
import random
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import structlog

from odradek.controller.active import ActiveController
from odradek.controller.api import ControllerApi
from odradek.controller.balancing import Balancer
from odradek.controller.committed import ClusterMachine, Committed
from odradek.controller.config import ControllerConfig
from odradek.controller.feed import Feed
from odradek.controller.liveness import Liveness
from odradek.controller.raft import RaftOptions, ReplicatedLog
from odradek.controller.state.heartbeats import HeartbeatPolicy
from odradek.controller.state.touched import Touched
from odradek.program.logs import bind_process_fields
from odradek.protocol.types import ControllerId
from odradek.rpc.channels import open_channel
from odradek.rpc.server import Server
from odradek.v1 import controller_pb2_grpc, raft_pb2_grpc

_log = structlog.get_logger()

_DRAIN_S: Final = 0.1


class Controller:
    """The composition root; `run` owns every task.

    Args:
        config: Everything that can be chosen.
    """

    def __init__(self, config: ControllerConfig) -> None:
        self._config = config
        controller_id = ControllerId(config.id)
        machine = ClusterMachine()
        self._machine = machine
        self._committed = Committed(machine)
        self._committed.listen(self._name_cluster)
        self._raft = ReplicatedLog(
            RaftOptions(
                cluster_id=config.cluster_id,
                self_id=controller_id,
                peers={ControllerId(peer): address for peer, address in config.others.items()},
                data_directory=config.data,
                bootstrap=config.bootstrap,
                rejoin=config.rejoin,
            ),
            machine,
            open_channel=open_channel,
        )
        self.active = ActiveController(
            self._raft,
            self._committed,
            controller_id=controller_id,
            cluster_id=config.cluster_id or uuid.uuid4().hex,
            chance=random.SystemRandom(),
        )
        feed = Feed(self.active, self._committed)
        policy = HeartbeatPolicy(
            session_timeout_s=config.session_timeout_s, grace_s=config.disconnect_grace_s
        )
        self._liveness = Liveness(self.active, self._committed, policy)
        self._balancer = Balancer(self.active, self._committed, self._liveness)
        self._api = ControllerApi(
            controller_id=controller_id,
            active=self.active,
            committed=self._committed,
            feed=feed,
            liveness=self._liveness,
            heartbeat_interval_s=config.heartbeat_interval_s,
        )
        self.port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Where it listens, once it does."""

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then drain.

        Raises:
            AddressInUseError: The address to listen on is taken.
            DataDirectoryError: The data directory cannot be trusted, or is empty without bootstrap.
            InconsistentClusterIdError: It belongs to another cluster or controller.
        """
        loop = asyncio.get_running_loop()
        self._machine.attach(partial(_call_on, loop, self._committed.catch_up))
        server = Server(self._config.listen)
        controller_pb2_grpc.add_ControllerServiceServicer_to_server(self._api, server.grpc)
        raft_pb2_grpc.add_RaftServiceServicer_to_server(self._raft.servicer, server.grpc)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._raft)
            self.port.set_result(await server.start())
            _log.info("listening", port=self.port.result(), data=str(self._config.data))
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            running = [
                tasks.create_task(self.active.run(), name="active"),
                tasks.create_task(self._liveness.run(), name="liveness"),
                tasks.create_task(self._balancer.run(), name="balancing"),
                tasks.create_task(self._report(server), name="report"),
            ]
            try:
                await stop.wait()
                _log.info("stopping")
            finally:
                for task in running:
                    task.cancel()
                # Streams of nodes and peers never end by themselves, and nobody else may become
                # active before this process has let go of them.
                await server.drain(_DRAIN_S)

    def _name_cluster(self, touched: Touched | None) -> None:
        """Say in the log which cluster this is, as soon as it is known."""
        del touched
        bind_process_fields(cluster=self._committed.image.cluster_id)

    async def _report(self, server: Server) -> None:
        """Report ready as long as the active controller is known."""
        ready = False
        while True:
            changed = self.active.changed.next()
            active = self.active.active_id
            if (active is not None) is not ready:
                ready = active is not None
                await server.health.set(serving=ready)
                _log.info("ready" if ready else "no active controller", active=active)
            await changed.wait()


def _call_on(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(callback)
