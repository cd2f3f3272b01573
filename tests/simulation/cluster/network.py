"""Streams between processes that delay, stall, break, and, on a hostile network, worse.

A `Stream` is what gRPC gives: frames arrive in order until it breaks, which each end learns in its
own time: at once when the other process died, after the keep-alive when packets are lost. Frames
that were under way when it broke may still arrive. A hostile network also repeats frames and lets
one overtake another, which no TCP does but every core must survive; whatever it drops, it breaks
the stream for soon after, since nobody waits for a frame that a stream has lost.
"""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, Protocol

from tests.simulation.cluster.events import Process, Scheduler

KEEP_ALIVE_S = 2.0
_DEAD_PEER_S = 0.002


class Once:
    """A frame of which even a hostile network makes no second copy, and which nothing overtakes.

    An assignment replaces the one before: such messages rely on the order of one stream.
    """

    __slots__ = ()


class StreamEnd(Protocol):
    """What a process does with its end."""

    def on_frame(self, frame: Any) -> None:
        """A frame arrived."""

    def on_broken(self) -> None:
        """Nothing arrives or leaves any more; told once."""


class Network:
    """All links."""

    def __init__(self, scheduler: Scheduler, chance: Random) -> None:
        self.scheduler = scheduler
        self.chance = chance
        self.cuts: set[tuple[Process, Process]] = set()
        self.slow: dict[tuple[Process, Process], float] = {}
        self.is_hostile = False

    def is_cut(self, sender: Process, receiver: Process) -> bool:
        """Whether packets in this direction are lost."""
        return (sender, receiver) in self.cuts

    def delay_s(self, sender: Process, receiver: Process) -> float:
        """How long the next frame is under way: mostly short, sometimes long."""
        slow_s = self.slow.get((sender, receiver), 0.0)
        tail_s = self.chance.random() * 0.05 if self.chance.random() < 0.02 else 0.0
        return 0.0002 + self.chance.random() * 0.001 + tail_s + slow_s

    def mend(self) -> None:
        """Cut nothing any more."""
        self.cuts.clear()
        self.slow.clear()
        self.is_hostile = False


class Half:
    """One end of a stream."""

    def __init__(self, stream: "Stream", process: Process) -> None:
        self.stream = stream
        self.process = process
        self.peer: Half  # the other end
        self.life = process.life
        self.end: StreamEnd | None = None
        self.is_broken = False
        self.arrives_s = 0.0  # the last frame towards this end
        self.stalled: list[Any] = []

    def send(self, frame: Any) -> None:
        """Send to the other end; lost when the stream is broken."""
        if not self.is_broken and self.process.life == self.life:
            self.stream.transmit(self, frame)

    def close(self) -> None:
        """Give the stream up."""
        if not self.is_broken:
            self.is_broken = True
            self.stream.closed_by(self)

    def deliver(self, frame: Any) -> None:
        """Hand a frame that arrived to the process."""
        process = self.process
        if self.is_broken or process.life != self.life:
            return
        if not process.is_attentive:
            process.when_awake(partial(self.deliver, frame))
        elif self.end is not None:
            self.end.on_frame(frame)

    def break_off(self) -> None:
        """Tell the process."""
        if not self.is_broken and self.process.life == self.life:
            self.process.when_awake(self._tell_broken)

    def _tell_broken(self) -> None:
        if self.is_broken or self.process.life != self.life:
            return
        self.is_broken = True
        if self.end is not None:
            self.end.on_broken()


class Stream:
    """A stream from one process to another."""

    def __init__(self, network: Network, client: Process, server: Process) -> None:
        self.network = network
        self.halves = ours, theirs = (Half(self, client), Half(self, server))
        ours.peer, theirs.peer = theirs, ours

    def transmit(self, sender: Half, frame: Any) -> None:
        """Put a frame on its way."""
        network, receiver = self.network, sender.peer
        if receiver.stalled or network.is_cut(sender.process, receiver.process):
            self._stall(receiver, frame)
            return
        now_s = network.scheduler.now_s
        delay_s = network.delay_s(sender.process, receiver.process)
        if network.is_hostile and not isinstance(frame, Once):
            lot = network.chance.random()
            if lot < 0.004:
                self._lose()
                return
            if lot < 0.02:  # repeated, much later
                self._deliver_after(receiver, delay_s + network.chance.random() * 0.2, frame)
            if lot < 0.05:  # overtaken
                late_s = max(delay_s, receiver.arrives_s - now_s)
                self._deliver_after(receiver, late_s + network.chance.random() * 0.05, frame)
                return
        receiver.arrives_s = max(receiver.arrives_s, now_s + delay_s)
        self._deliver_after(receiver, receiver.arrives_s - now_s, frame)

    def closed_by(self, half: Half) -> None:
        """One end is gone: the other learns it, unless packets are lost."""
        peer = half.peer
        if self.network.is_cut(half.process, peer.process):
            self._stall(peer, None)
        else:
            delay_s = _DEAD_PEER_S + self.network.delay_s(half.process, peer.process)
            self.network.scheduler.after(delay_s, peer.break_off)

    def _deliver_after(self, receiver: Half, delay_s: float, frame: Any) -> None:
        self.network.scheduler.after(delay_s, partial(receiver.deliver, frame))

    def _stall(self, receiver: Half, frame: Any) -> None:
        """Packets are lost: send them again until the link is back, or the keep-alive ends."""
        receiver.stalled.append(frame)
        if len(receiver.stalled) == 1:
            since_s = self.network.scheduler.now_s
            self.network.scheduler.after(0.2, lambda: self._retransmit(receiver, since_s))

    def _retransmit(self, receiver: Half, since_s: float) -> None:
        network = self.network
        if network.scheduler.now_s - since_s >= KEEP_ALIVE_S:
            receiver.break_off()
            receiver.peer.break_off()
        elif network.is_cut(receiver.peer.process, receiver.process):
            network.scheduler.after(0.2, lambda: self._retransmit(receiver, since_s))
        else:
            stalled, receiver.stalled = receiver.stalled, []
            for frame in stalled:
                if frame is None:
                    receiver.break_off()
                elif not receiver.peer.is_broken:
                    self.transmit(receiver.peer, frame)

    def _lose(self) -> None:
        for half in self.halves:
            self.network.scheduler.after(self.network.chance.random() * 0.5, half.break_off)


def connect(
    network: Network,
    client: Process,
    server: Process,
    accept: Callable[[Half], StreamEnd],
) -> Half:
    """Open a stream; the server's end is made when the first frame could arrive.

    Returns:
        The client's half. Nobody listening breaks it soon.
    """
    stream = Stream(network, client, server)
    ours, theirs = stream.halves
    delay_s = network.delay_s(client, server)

    def arrive() -> None:
        if not server.is_up or network.is_cut(client, server) or network.is_cut(server, client):
            wait_s = _DEAD_PEER_S if not network.is_cut(client, server) else KEEP_ALIVE_S
            network.scheduler.after(wait_s, ours.break_off)
            return
        theirs.life = server.life
        theirs.end = accept(theirs)

    theirs.arrives_s = network.scheduler.now_s + delay_s
    network.scheduler.after(delay_s, arrive)
    return ours


def on_death(halves: list[Half]) -> None:
    """A process died: the kernel closes what it had open."""
    for half in halves:
        if not half.is_broken:
            half.is_broken = True
            half.stream.closed_by(half)
