"""The controllers as this node sees them: one channel to each, and which of them is active.

Problem: several controllers may believe to be active for a moment. Idea: the highest controller
epoch heard so far wins; whoever speaks with a lower one is a ghost and is not listened to.

Invariant: `epoch` never falls.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from odradek.protocol.errors import RequestTimedOutError
from odradek.protocol.types import ControllerId
from odradek.rpc.channels import open_channel
from odradek.rpc.tls import TlsOptions
from odradek.v1 import controller_pb2_grpc

UNKNOWN_CONTROLLER = ControllerId(-1)


@dataclass(slots=True, eq=False)
class ControllerPeer:
    """One configured controller."""

    address: str
    channel: grpc.aio.Channel
    stub: "controller_pb2_grpc.ControllerServiceAsyncStub"
    controller_id: ControllerId = UNKNOWN_CONTROLLER
    """Unknown until it first answered."""
    reachable: bool = False
    """Whether the heartbeat stream to it stands."""


class Controllers:
    """All configured controllers."""

    def __init__(self, addresses: Sequence[str], *, tls: TlsOptions | None = None) -> None:
        self.epoch = 0
        """The highest controller epoch heard of."""
        self.active: ControllerPeer | None = None
        self.peers = [_peer(address, tls) for address in addresses]
        self._changed = asyncio.Event()

    async def close(self) -> None:
        """Close every channel."""
        for peer in self.peers:
            await peer.channel.close()

    def heard_active(self, peer: ControllerPeer, epoch: int) -> bool:
        """Note that a controller calls itself active; return whether it is believed."""
        if epoch < self.epoch:
            return False
        self.epoch = epoch
        self._set_active(peer)
        return True

    def heard_inactive(self, peer: ControllerPeer) -> None:
        """Note that a controller says it is not active, or that its connection broke."""
        if self.active is peer:
            self._set_active(None)

    def _set_active(self, peer: ControllerPeer | None) -> None:
        if self.active is not peer:
            self.active = peer
            self._changed.set()
            self._changed = asyncio.Event()

    async def until_active_changes(self) -> None:
        """Wait until another controller, or none, is known as the active one."""
        await self._changed.wait()

    async def wait_active(self, timeout_s: float) -> ControllerPeer:
        """Return the active controller once one is known.

        Raises:
            RequestTimedOutError: None was found in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self.active is None:
                    await self._changed.wait()
        except TimeoutError:
            addresses = ", ".join(peer.address for peer in self.peers)
            raise RequestTimedOutError(
                f"no active controller within {timeout_s:g} s among {addresses}"
            ) from None
        return self.active


def _peer(address: str, tls: TlsOptions | None) -> ControllerPeer:
    channel = open_channel(address, tls=tls)
    return ControllerPeer(address, channel, controller_pb2_grpc.ControllerServiceStub(channel))
