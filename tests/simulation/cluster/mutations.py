"""Planted bugs: what the simulator must find, or its silence means nothing.

Each is a mistake somebody made in a real system, or could make here with one line; and each is one
line: a piece of a production function (once, of the simulator's node, which stands for the shell),
and what stands in its place. Should the piece be gone, the mutation says so instead of planting
nothing.
"""

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from odradek.controller.state import (
    elections,
    nodes,
    partitions,
    reassignment,
    topic_settings,
)
from odradek.controller.state.groups.decide import _replace_member
from odradek.controller.state.groups.reconcile import _revoke, reconcile
from odradek.node.coordination.members import GroupMembers
from odradek.node.coordination.offsets import CommittedOffsets
from odradek.node.coordination.sessions import Sessions
from odradek.node.replication.durable_end import DurableEnd
from odradek.node.replication.follower import FollowerReplica
from odradek.node.replication.isr import InSync
from odradek.node.replication.leader import LeaderReplica
from odradek.node.replication.progress import Progress
from odradek.node.storage import value_recovery
from odradek.node.storage.producers import ProducerStates
from tests.simulation.cluster.node import SimulatedNode


@dataclass(frozen=True, slots=True)
class Mutation:
    """One planted bug.

    Attributes:
        name: What is wrong.
        function: Whose line it is.
        line: A piece of its source that occurs once.
        becomes: What stands there instead.
        first: The first seed to try: one that finds it, as long as the schedule stays.
    """

    name: str
    function: Callable[..., Any] | property
    line: str
    becomes: str
    first: int = 0

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Run with the bug, wherever the function is called."""
        function = self.function.fget if isinstance(self.function, property) else self.function
        assert isinstance(function, FunctionType)
        code, function.__code__ = function.__code__, self._code(function)
        try:
            yield
        finally:
            function.__code__ = code

    def _code(self, function: FunctionType) -> CodeType:
        source = textwrap.dedent(inspect.getsource(function))
        source = source[source.index("def ") :]
        assert source.count(self.line) == 1, f"{function.__qualname__} has no such line"
        namespace: dict[str, Any] = {}
        program = compile(source.replace(self.line, self.becomes), "<planted>", "exec")
        exec(program, function.__globals__, namespace)
        code: CodeType = namespace[function.__name__].__code__
        return code


MUTATIONS = (
    Mutation(
        "the leader counts itself before its sync",
        LeaderReplica.on_appended,
        "self.log_end_offset = self.log_end_offset, log_end",
        "self.log_end_offset = self.log_end_offset, log_end; self.durable_end = log_end",
    ),
    Mutation(
        "the high watermark moves below the minimum ISR",
        LeaderReplica.has_enough_replicas,
        "len(self.isr) >= self.min_insync",
        "True",
    ),
    Mutation(
        "the high watermark ignores who is proposed",
        LeaderReplica._advance_high_watermark,
        "for member in self.maximal_isr",
        "for member in self.isr",
    ),
    Mutation(
        "a follower joins before it has what earlier leaders committed",
        LeaderReplica._belongs,
        "max(self.high_watermark, self.epoch_start)",
        "self.high_watermark",
    ),
    Mutation(
        "a follower joins by what it was sent",
        LeaderReplica._belongs,
        "progress.durable_end >=",
        "progress.sent_end >=",
    ),
    Mutation(
        "the end of what is committed is told before it is known",
        LeaderReplica.reached_epoch_start,
        "self.high_watermark >= self.epoch_start",
        "True",
    ),
    Mutation(
        "logs are never compared",
        LeaderReplica.on_announced,
        "announced.diverging(epochs, log_start, self.log_end_offset)",
        "None",
    ),
    Mutation(
        "a refused proposal is forgotten",
        InSync.on_answered,
        "self._pending = None",
        "self._pending = None; self.maximal = frozenset(self.committed)",
        first=28,
    ),
    Mutation(
        "a proposed member does not count",
        InSync.propose,
        "self.maximal |= members",
        "pass",
    ),
    Mutation(
        "the announced end is taken for durable",
        Progress.match,
        "self.durable_end = announced.durable_end",
        "self.durable_end = announced.log_end",
        first=10,
    ),
    Mutation(
        "a cut leaves the durable end where it was",
        DurableEnd.on_truncated,
        "self.end = min(self.end, end)",
        "pass",
    ),
    Mutation(
        "a follower acknowledges before its sync",
        FollowerReplica.on_appended,
        "return self._advance_high_watermark()",
        "return [*self._advance_high_watermark(), *self.on_durable(log_end)]",
    ),
    Mutation(
        "a follower truncates by its high watermark",
        FollowerReplica.on_diverging,
        "min(end.end_offset, self._own_end(end.epoch, epochs))",
        "self.high_watermark",
        first=33,
    ),
    Mutation(
        "a stale ISR proposal is accepted",
        partitions._refusal,
        "if proposal.partition_epoch != partition.partition_epoch",
        "if False",
        first=9,
    ),
    Mutation(
        "a replica that lost its data stays eligible",
        nodes._end_incarnation,
        "forget(draft, known.node_id, synced_version=synced, gone=gone)",
        "pass",
    ),
    Mutation(
        "a topic is judged by its present flush when a page cache is lost",
        elections.forget,
        "synced_version >= topic.pages_until_version and ",
        "",
        first=23,
    ),
    Mutation(
        "a registration that was overtaken counts",
        nodes._check_previous,
        "request.previous_incarnation != in_force",
        "False",
        first=2150,
    ),
    Mutation(
        "a registration leaves the node where it led",
        nodes._end_incarnation,
        "depose(draft, known.node_id)",
        "pass",
    ),
    Mutation(
        "a new leader goes on in the old epoch",
        elections.change,
        "stays = after.leader == before.leader and",
        "stays = True or",
    ),
    Mutation(
        "a move ends before who was added is in sync",
        reassignment.complete,
        "set(partition.adding) <= set(settled.isr)",
        "True",
        first=8,
    ),
    Mutation(
        "a move takes the ISR below its minimum",
        reassignment.can_spare,
        "len(left) >= min(minimum, len(had))",
        "True",
        first=3,
    ),
    Mutation(
        "a move drops who has everything while the others are too few",
        reassignment.can_spare,
        ", (before.isr + before.elr, after.isr + after.elr)",
        ",",
        first=3,
    ),
    Mutation(
        "a replica that went and came back counts as before",
        elections.change,
        " and set(before.replicas) <= set(after.replicas)",
        "",
        first=8,
    ),
    Mutation(
        "a lower minimum leaves the ELR as it is",
        topic_settings.adapt_insync,
        "change(draft, partition, partition, config=config)",
        "pass",
        first=3,
    ),
    Mutation(
        "who is about to stop leads on",
        nodes.retire_node,
        "retire(draft, node.node_id)",
        "pass",
        first=8,
    ),
    Mutation(
        "batches sent again are appended again",
        ProducerStates.check,
        "if not header.has_producer_id",
        "if True",
    ),
    Mutation(
        "a late commit takes back what a later one has committed",
        CommittedOffsets.accept,
        "0 < record.sequence < known.sequence",
        "False",
        first=6,
    ),
    Mutation(
        "of two commits the one with the later time counts",
        CommittedOffsets.accept,
        "0 < record.sequence < known.sequence",
        "record.commit_time_ms < known.commit_time_ms",
        first=6,
    ),
    Mutation(
        "a producer's day passes on the wall clock",
        SimulatedNode.steady_ms,
        "int(self.now_s * 1000)",
        "self.wall.now_ms",
        first=18,
    ),
    Mutation(
        "a repeat is told no time of the log's",
        ProducerStates.appended,
        "header.max_timestamp if header.is_log_append_time else _NO_TIMESTAMP",
        "_NO_TIMESTAMP",
    ),
    Mutation(
        "a torn batch is taken for a whole one",
        value_recovery._find_torn,
        "torn[uid] = offset",
        "pass",
    ),
    Mutation(
        "a log is cut at the last of its torn batches",
        value_recovery._find_torn,
        " or (uid in torn and torn[uid] <= offset)",
        "",
        first=12,
    ),
    Mutation(
        "the segment that the durable mark lies in is taken for synced",
        value_recovery.recover,
        "number >= begin and not",
        "number > begin and not",
        first=10,
    ),
    Mutation(
        "a partition is released before its owner said so",
        GroupMembers._release,
        "member.revoking.keys() - presence.may_own.keys()",
        "member.revoking.keys()",
    ),
    Mutation(
        "a partition is handed over while it is being revoked",
        reconcile,
        "for partition in (*member.assigned, *member.revoking)",
        "for partition in member.assigned",
    ),
    Mutation(
        "what is still being revoked is forgotten when more is",
        _revoke,
        "{**still_revoking, **gives_up}",
        "gives_up",
        first=16,
    ),
    Mutation(
        "a static member's place is given to its next process and kept by the one before",
        _replace_member,
        "draft.emit(MemberRemoved(group.group, old.member_id))",
        "pass",
        first=11,
    ),
    Mutation(
        "who is silent stays a member",
        Sessions.expired,
        "return self._deadlines.due(now_s)",
        "return []",
        first=1,
    ),
)
