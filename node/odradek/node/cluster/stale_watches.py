"""Sends clients elsewhere once this node may not know any more who leads.

Problem: a node that is cut off from the controllers, but not from its clients, answers them as
ever. Those that learn of the cluster here would never hear that others lead now. Idea: when the
session ends without an answer, every watch of the metadata ends, once. Whoever finds no node that
knows more may come back: what is committed can be read without any controller.
"""

import asyncio
import time
from typing import Final

from odradek.node.cluster.session import Session
from odradek.node.cluster.view import ClusterView

_TICK_S: Final = 0.1


async def end_stale_watches(session: Session, view: ClusterView) -> None:
    """End the watches at each end of the session, until cancelled."""
    told = True  # nobody watches what there is not yet
    while True:
        now_s = time.monotonic()
        lapsed = session.lapsed(now_s)
        if lapsed is not None and not told:
            view.end_watches(lapsed)
        told = lapsed is not None
        ends_in_s = session.last_contact_s + session.timeout_s - now_s
        await asyncio.sleep(max(_TICK_S, ends_in_s))
