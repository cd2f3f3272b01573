"""This node's place in the cluster: registering, staying alive, following the metadata.

One heartbeat stream goes to every controller, so that losing the active one together with other
nodes costs no session time-out; registration and the metadata stream go to the active one.

A registration names the one it takes the place of; whoever does not know it, as after a start, is
refused and told.

Invariants: one registration is in force at a time; updates are applied in the order of the stream,
each in one step; a lower controller epoch is never listened to.

Source: ARCHITECTURE.md, "Controller"; Kafka's BrokerLifecycleManager.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import grpc
import structlog

from odradek.node.cluster.controllers import ControllerPeer, Controllers
from odradek.node.cluster.session import (
    HeartbeatClock,
    SentHeartbeat,
    Session,
)
from odradek.protocol.errors import (
    BrokerError,
    DuplicateNodeRegistrationError,
    InconsistentClusterIdError,
    InvalidRequestError,
    OdradekError,
    StaleBrokerEpochError,
    StorageFullError,
)
from odradek.protocol.types import ControllerId, Incarnation, NodeId
from odradek.rpc.backoff import delays
from odradek.rpc.channels import error_from_rpc
from odradek.v1 import controller_pb2 as pb

_log = structlog.get_logger()

_RPC_TIMEOUT_S: Final = 5.0
_REGISTER_ATTEMPTS: Final = 2
"""The first may learn which registration is in force; the second names it."""
_WATCH_SILENCE_S: Final = 30.0
_HEARTBEAT_INTERVAL_FIRST_S: Final = 0.5
_FATAL: Final = (DuplicateNodeRegistrationError, InconsistentClusterIdError, InvalidRequestError)


class MembershipRefusedError(Exception):
    """The cluster will not have this node; trying again would not help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeIdentity:
    """What a node says of itself when it registers."""

    node_id: NodeId
    cluster_id: str
    directory_id: bytes
    host: str
    port: int
    rack: str
    lost_data: bool
    unclean_boot: bool
    synced_metadata_version: int = 0
    replace: bool
    software_version: str
    store_set_aside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipEvents:
    """What membership asks of the node; all are called on the loop and must not wait."""

    registered: Callable[[pb.RegisterNodeResponse], None]
    cluster_changed: Callable[[pb.WatchClusterResponse], None]
    """May raise StorageFullError: nothing was applied, the stream is to begin anew later."""
    fenced_changed: Callable[[bool], None]
    storage_full: Callable[[], bool]


class Membership:
    """Runs until cancelled, or until the cluster refuses the node."""

    def __init__(
        self,
        identity: NodeIdentity,
        controllers: Controllers,
        session: Session,
        events: MembershipEvents,
    ) -> None:
        self.session = session
        self.may_shut_down = asyncio.Event()
        self._identity = identity
        self._controllers = controllers
        self._events = events
        self._version = 0
        self._interval_s = _HEARTBEAT_INTERVAL_FIRST_S
        self._wants_shutdown = False
        self._doubts = 0
        self._must_register = asyncio.Event()
        self._poked = {peer: asyncio.Event() for peer in controllers.peers}
        self._chance = random.Random()  # noqa: S311  jitter, not a secret

    async def run(self) -> None:
        """Register, then stay a member.

        Raises:
            MembershipRefusedError: Another cluster's data, or another node under this id.
        """
        async with asyncio.TaskGroup() as tasks:
            for peer in self._controllers.peers:
                tasks.create_task(self._keep_heartbeat(peer), name=f"heartbeat {peer.address}")
            tasks.create_task(self._stay_registered(), name="membership")

    def announce_shutdown(self) -> None:
        """Ask for the leaderships to be moved away; `may_shut_down` is set once they are."""
        self._wants_shutdown = True
        self.poke()

    def register_again(self) -> None:
        """Ask for a new incarnation, and with it for new leader epochs."""
        self._must_register.set()

    def poke(self) -> None:
        """Send a heartbeat now."""
        for event in self._poked.values():
            event.set()

    # Registration and metadata

    async def _stay_registered(self) -> None:
        while True:
            await self._register()
            await self._follow_until_superseded()

    async def _register(self) -> None:
        process_id = secrets.token_bytes(16)
        for delay_s in self._delays():
            for peer in self._candidates():
                if await self._ask_to_register(peer, process_id):
                    return
            with suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._controllers.until_active_changes()

    async def _ask_to_register(self, peer: ControllerPeer, process_id: bytes) -> bool:
        """Register with one controller; return whether it is done."""
        previous = self.session.incarnation
        for _ in range(_REGISTER_ATTEMPTS):
            request = self._registration(process_id, previous)
            sent_at_s = time.monotonic()
            try:
                response = await peer.stub.RegisterNode(request, timeout=_RPC_TIMEOUT_S)
            except grpc.aio.AioRpcError as failure:
                error = error_from_rpc(failure)
                if isinstance(error, StaleBrokerEpochError):
                    previous = Incarnation(int(error.limit))
                    continue
                self._register_failed(peer, error)
                return False
            if not self._controllers.heard_active(peer, response.controller_epoch):
                return False
            self._registered(response, sent_at_s)
            return True
        return False

    def _candidates(self) -> list[ControllerPeer]:
        """Return the controllers, the one believed to be active first."""
        return sorted(
            self._controllers.peers, key=lambda peer: peer is not self._controllers.active
        )

    def _register_failed(self, peer: ControllerPeer, error: OdradekError) -> None:
        if isinstance(error, _FATAL):
            raise MembershipRefusedError(error.message) from error
        level = "debug" if isinstance(error, BrokerError) and error.retriable else "info"
        getattr(_log, level)("registration failed", controller=peer.address, reason=error.message)

    def _registration(self, process_id: bytes, previous: Incarnation) -> pb.RegisterNodeRequest:
        me = self._identity
        return pb.RegisterNodeRequest(
            cluster_id=me.cluster_id,
            node_id=me.node_id,
            directory_id=me.directory_id,
            process_id=process_id,
            host=me.host,
            port=me.port,
            rack=me.rack,
            lost_data=me.lost_data,
            unclean_boot=me.unclean_boot,
            synced_metadata_version=me.synced_metadata_version,
            replace=me.replace,
            software_version=me.software_version,
            store_set_aside=me.store_set_aside,
            previous_incarnation=previous,
        )

    def _registered(self, response: pb.RegisterNodeResponse, sent_at_s: float) -> None:
        self._must_register.clear()
        self._doubts = 0
        self._interval_s = response.heartbeat_interval_ms / 1000
        incarnation = Incarnation(response.incarnation)
        if incarnation <= self.session.incarnation:
            raise MembershipRefusedError(
                f"the controllers gave out incarnation {incarnation} after"
                f" {self.session.incarnation}: they have lost what they knew"
            )
        self.session.on_registered(incarnation, response.session_timeout_ms / 1000, sent_at_s)
        # The controllers have acted on it; what is copied from now on is not lost.
        self._identity = replace(self._identity, lost_data=False, unclean_boot=False)
        self._events.registered(response)
        _log.info("registered", incarnation=incarnation, version=response.version)
        self.poke()

    async def _follow_until_superseded(self) -> None:
        """Keep a metadata stream to whichever controller is active."""
        waits = self._delays()
        superseded = asyncio.ensure_future(self._must_register.wait())
        try:
            while not superseded.done():
                moved = asyncio.ensure_future(self._controllers.until_active_changes())
                stream = asyncio.ensure_future(self._follow())
                ends = (superseded, moved, stream)
                try:
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                    if stream.done() and stream.result():
                        waits = self._delays()  # it worked for a while: dial again at once
                finally:
                    await _cancel(moved, stream)
                if not superseded.done():
                    await asyncio.wait((superseded,), timeout=next(waits))
        finally:
            await _cancel(superseded)

    async def _follow(self) -> bool:
        """Apply one metadata stream until it breaks; return whether anything came."""
        peer = self._controllers.active
        if peer is None:
            await self._controllers.until_active_changes()
            return True
        request = pb.WatchClusterRequest(
            node_id=self._identity.node_id, incarnation=self.session.incarnation
        )
        received = False
        call = peer.stub.WatchCluster(request)
        try:
            while True:
                # A healthy stream carries keep-alives more often than this.
                async with asyncio.timeout(_WATCH_SILENCE_S):
                    response = await call.read()
                if not isinstance(response, pb.WatchClusterResponse):
                    return received
                if not self._apply(peer, response):
                    return False
                received = True
        except grpc.aio.AioRpcError as error:
            _log.info(
                "metadata stream broke",
                controller=peer.address,
                reason=error_from_rpc(error).message,
            )
            return received
        except TimeoutError:
            _log.warning("metadata stream is silent", controller=peer.address)
            return received
        except StorageFullError as error:
            _log.warning("metadata waits for the disk", reason=error.message)
            return False
        finally:
            call.cancel()

    def _apply(self, peer: ControllerPeer, response: pb.WatchClusterResponse) -> bool:
        """Apply one step; False when the stream is not to be listened to."""
        if response.controller_epoch < self._controllers.epoch:
            return False
        if response.metadata.version < self._version:
            # A controller that has just been elected and has yet to catch up.
            _log.info("metadata stream lags", controller=peer.address, known=self._version)
            return False
        self._events.cluster_changed(response)
        if response.metadata.version > self._version:
            self._version = response.metadata.version
            if self.session.fenced or self._wants_shutdown:
                self.poke()  # the controller waits to hear that we caught up
        return True

    # Heartbeats

    async def _keep_heartbeat(self, peer: ControllerPeer) -> None:
        waits = self._delays()
        while True:
            try:
                if await self._heartbeat(peer):
                    waits = self._delays()
            except* (grpc.aio.AioRpcError, asyncio.InvalidStateError) as errors:
                _log.debug("heartbeat stream broke", controller=peer.address, reason=str(errors))
            finally:
                if peer.reachable:
                    _log.info("controller lost", controller=peer.address)
                peer.reachable = False
                self._controllers.heard_inactive(peer)
            await asyncio.sleep(next(waits))

    async def _heartbeat(self, peer: ControllerPeer) -> bool:
        """Run one heartbeat stream until it breaks; return whether it ever worked."""
        call = peer.stub.Heartbeat()
        clock = HeartbeatClock()
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._send_heartbeats(peer, call, clock))
                while True:
                    # Silence: the controller hangs, or the network drops without a word.
                    async with asyncio.timeout(max(self.session.timeout_s, 2.0)):
                        response = await call.read()
                    if not isinstance(response, pb.ControllerServiceHeartbeatResponse):
                        break
                    self._heard(peer, response, clock.on_answer())
                writer.cancel()
        except* TimeoutError:
            _log.info("controller is silent", controller=peer.address)
        finally:
            call.cancel()
        return peer.reachable

    async def _send_heartbeats(
        self,
        peer: ControllerPeer,
        call: "grpc.aio.StreamStreamCall[pb.ControllerServiceHeartbeatRequest, "
        "pb.ControllerServiceHeartbeatResponse]",
        clock: HeartbeatClock,
    ) -> None:
        poked = self._poked[peer]
        while True:
            poked.clear()
            clock.on_sent(SentHeartbeat(time.monotonic(), self.session.incarnation))
            await call.write(
                pb.ControllerServiceHeartbeatRequest(
                    node_id=self._identity.node_id,
                    incarnation=self.session.incarnation,
                    version=self._version,
                    wants_shutdown=self._wants_shutdown,
                    storage_full=self._events.storage_full(),
                )
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await poked.wait()

    def _heard(
        self,
        peer: ControllerPeer,
        response: pb.ControllerServiceHeartbeatResponse,
        answered: SentHeartbeat | None,
    ) -> None:
        peer.reachable = True
        peer.controller_id = ControllerId(response.controller_id)
        if not response.active:
            self._controllers.heard_inactive(peer)
            return
        if not self._controllers.heard_active(peer, response.controller_epoch):
            return
        incarnation = self.session.incarnation
        if answered is None or answered.incarnation != incarnation or not incarnation:
            return  # it does not speak of the registration in force
        if response.must_register:
            self._on_must_register()
            return
        self._doubts = 0
        was_fenced = self.session.fenced
        self.session.on_contact(answered.at_s, fenced=response.fenced)
        if was_fenced != response.fenced:
            self._events.fenced_changed(response.fenced)
        if response.may_shut_down:
            self.may_shut_down.set()

    def _on_must_register(self) -> None:
        """Believe it when told twice: an unasked answer may speak of the registration before."""
        self._doubts += 1
        if self._doubts > 1:
            self._must_register.set()
        else:
            self.poke()

    def _delays(self) -> Iterator[float]:
        return delays(self._chance)


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
