"""What nodes were answered, so that a repeated request is not decided twice. Pure.

Problem: an answer may be lost on its way, or the controller on its way to answer; the node asks
again, perhaps another controller. Idea: the answer is a record like its effect, found by (node
incarnation, request sequence). Only answers of requests that changed something are kept.

Invariant: at most `ANSWERS_MAX` per node, of its present incarnation alone; a sequence so old that
its answer may have been dropped is refused, never decided again.
"""

from odradek.controller.state.records import RequestAnswered
from odradek.protocol.errors import InvalidRequestError
from odradek.protocol.types import NodeId

ANSWERS_MAX = 128
"""A node may have fewer requests than this under way at a time."""


class AnswerTable:
    """The latest answers of every node."""

    __slots__ = ("_by_node",)

    def __init__(self) -> None:
        # Node -> sequence -> answer, oldest first. Inner dictionaries are replaced, never mutated.
        self._by_node: dict[NodeId, dict[int, RequestAnswered]] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnswerTable) and self._by_node == other._by_node

    def __hash__(self) -> int:
        raise TypeError("an answer table changes")

    def copy(self) -> "AnswerTable":
        """Return an independent table."""
        table = AnswerTable()
        table._by_node = self._by_node.copy()
        return table

    def all(self) -> list[RequestAnswered]:
        """Return every answer, each node's oldest first."""
        return [answer for answers in self._by_node.values() for answer in answers.values()]

    def find(self, node_id: NodeId, sequence: int) -> RequestAnswered | None:
        """Return what was answered before; None for a request to be decided.

        Raises:
            InvalidRequestError: So old that its answer may have been dropped.
        """
        answers = self._by_node.get(node_id, {})
        answer = answers.get(sequence)
        if answer is None and len(answers) == ANSWERS_MAX and sequence < next(iter(answers)):
            raise InvalidRequestError(
                f"request {sequence} of node {node_id} is older than its last {ANSWERS_MAX}"
                " answers; whether it was decided is no longer known",
                field="sequence",
                value=sequence,
                limit=next(iter(answers)),
            )
        return answer

    def remember(self, answer: RequestAnswered) -> None:
        """Keep one answer, dropping the one of the lowest sequence when there are too many."""
        kept = self._by_node.get(answer.node_id, {}) | {answer.sequence: answer}
        kept = dict(sorted(kept.items())[-ANSWERS_MAX:])
        self._by_node[answer.node_id] = kept

    def forget(self, node_id: NodeId) -> None:
        """Drop a node's answers: it registered anew or was removed."""
        self._by_node.pop(node_id, None)
