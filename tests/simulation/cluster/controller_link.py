"""What a node asks the active controller for, as its `ControllerLink` does.

It asks again, under one number, until it knows the answer; and whoever asked is told only once this
node's own image holds the result: a coordinator must not show a member what was before its join.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from odradek.controller.state.decide import Answer, NodeRequest, Submission
from odradek.protocol.errors import BrokerError

if TYPE_CHECKING:
    from tests.simulation.cluster.node import SimulatedNode

Decided = Callable[[Answer | BrokerError | None, Any], None]
"""Told the answer and what it says, or an error; None: the outcome is unknown."""

_GIVE_UP_S = 10.0
_ATTEMPT_TIMEOUT_S = 2.0
_IMAGE_TIMEOUT_S = 0.05  # images are not later by seconds here, and giving up is worth meeting
_RETRY_S = 0.1


class SimulatedLink:
    """The link of one life of a node."""

    def __init__(self, node: "SimulatedNode") -> None:
        self._node = node
        self._sequence = 0
        self._waiting: list[tuple[int, Callable[[], None]]] = []

    def submit(self, request: NodeRequest, decided: Decided) -> None:
        """Have something decided."""
        self._sequence += 1
        node = self._node
        submission = Submission(node.node_id, node.session.incarnation, self._sequence, request)
        self._ask(submission, decided, node.now_s + _GIVE_UP_S)

    def on_image(self) -> None:
        """The node, with all it hosts, knows a newer version."""
        waiting, self._waiting = self._waiting, []
        for version, told in waiting:
            self._at_least(version, told)

    def _ask(self, submission: Submission, decided: Decided, give_up_s: float) -> None:
        node = self._node
        controller = node.active
        is_over = False

        def over(reply: Any, version: int) -> None:
            nonlocal is_over
            if is_over:
                return
            is_over = True
            if isinstance(reply, Answer):
                assert controller is not None
                self._tell(version, partial(decided, reply, controller.reply_of(reply)), decided)
            elif isinstance(reply, BrokerError):
                decided(reply, None)
            elif node.now_s >= give_up_s:
                decided(None, None)
            else:
                node.after(_RETRY_S, partial(self._ask, submission, decided, give_up_s))

        if controller is not None:
            node.world.call(node, controller, partial(controller.request, submission), over)
        node.after(_ATTEMPT_TIMEOUT_S, partial(over, None, 0))

    def _tell(self, version: int, told: Callable[[], None], decided: Decided) -> None:
        """Tell an answer once the image holds it; that it is unknown when that takes too long."""
        is_told = False

        def once(tell: Callable[[], None]) -> None:
            nonlocal is_told
            if not is_told:
                is_told = True
                tell()

        self._at_least(version, partial(once, told))
        if not is_told:
            self._node.after(_IMAGE_TIMEOUT_S, partial(once, partial(decided, None, None)))

    def _at_least(self, version: int, told: Callable[[], None]) -> None:
        metadata = self._node.metadata
        if metadata is not None and metadata.version >= version:
            told()
        else:
            self._waiting.append((version, told))
