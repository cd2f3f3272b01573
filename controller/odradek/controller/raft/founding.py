"""How a new cluster begins: all controllers' disks are fresh, and each knows each other's. Pure.

Problem: an empty disk may be a new cluster's, or one put in for a lost disk, which may have voted
and acknowledged: if the new one took part at once, what was committed could be outvoted. Nothing
on it tells. Idea: a fresh disk has a nonce, no vote, and introduces itself. It founds, which is to
take its vote, once every other controller has named that nonce to it: one that is as fresh, from
what it has heard; one that has founded, from its `originals`, the nonces it founded with. Any other
way to a vote leads through a leader, who admits it.

Invariants:
- `originals` never change; who was admitted by a leader has none, and confirms nothing.
- A confirmation names the nonce it confirms: however late it comes, it serves no later disk.

Why this suffices: whoever confirms a disk took its own vote after that disk was there, or has none.
So a disk founds only where no voter of before is left; while one is, a leader has to admit it. The
price: where a leader has admitted some, one that never had a vote counts as lost until admitted.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from odradek.controller.raft.messages import Introduction
from odradek.protocol.types import ControllerId


@dataclass(slots=True)
class Founding:
    """What a controller without a vote has heard from the others since it started."""

    nonce: int
    heard: dict[ControllerId, Introduction] = field(default_factory=dict)  # the latest of each

    def on_introduction(self, sender: ControllerId, message: Introduction) -> bool:
        """Remember it; return whether the sender needs to hear from here at once."""
        before = self.heard.get(sender)
        self.heard[sender] = message
        is_news = before is None or before.nonce != message.nonce
        return message.nonce != 0 and (is_news or message.known_nonce != self.nonce)

    def introduction_to(self, peer: ControllerId) -> Introduction:
        """Return what to tell a peer, again and again."""
        heard = self.heard.get(peer)
        return Introduction(self.nonce, known_nonce=0 if heard is None else heard.nonce)

    def unconfirmed(self, peers: Iterable[ControllerId]) -> list[ControllerId]:
        """Return those that do not know this disk, or have not said so."""
        confirmed = {peer for peer, heard in self.heard.items() if heard.known_nonce == self.nonce}
        return [peer for peer in peers if peer not in confirmed]

    def originals(self) -> dict[ControllerId, int]:
        """Return the disks of those that are fresh, too."""
        return {peer: heard.nonce for peer, heard in self.heard.items() if heard.nonce}
