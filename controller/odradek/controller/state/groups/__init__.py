"""Consumer groups in the controller: who is a member, and who reads what.

Problem: members come, go and hang, topics grow, and yet a partition must never have two readers,
nor a rebalance stop those it does not concern. Idea (KIP-848): the server computes a *target* for
every member and lets each move towards it alone. A member is first told what to revoke; only once
it has confirmed is the partition given to its new owner.

How the controller's state uses this package (pure; values in, values out):

    groups: dict[GroupId, Group]             in the image; the values are immutable, so a shallow
                                             copy is a draft
    decide(groups, changes, topics)          -> GroupDecision(records, errors); changes nothing
    on_topics_changed(groups, topics, names) -> records; whenever topics are created, deleted or
                                             grown, in the same decision, against a view that shows
                                             them so already
    apply(groups, record)                    changes the mapping in place; total, never raises
    snapshot(groups)                         -> the records that make these groups from nothing

Outside the pure core, `odradek.controller.groups_wire` converts: `command_from_proto`,
`result_to_proto`, `record_to_proto`, `record_from_proto`, and `group_to_proto` for the feed.

What the caller does: refuses a command whose leader epoch of the `__consumer_offsets` partition is
not the present one (NOT_COORDINATOR); writes all records of a decision in one command of the log;
feeds a group, whole, to its coordinator whenever `apply` changed it.

Debouncing: the controller has no timer here. All changes of one command make at most one new epoch
a group, and coordinators hold joins into a group that has members back for 250 ms, so that ten
consumers starting together cost two rebalances: one for the first, which reads at once, and one for
all others. Leaves, expiries and confirmations are sent at once.

Invariants: model.py. They hold after every decision; a decision over any state ends in one where
each member owns what it may own of its target, or somebody has something to revoke.

Source: KIP-848, KIP-1251, KIP-345 (static members).
"""

from odradek.controller.state.groups.commands import (
    GroupChange,
    GroupChanges,
    GroupDeleted,
    MemberJoined,
    MemberLeft,
    MemberOwns,
)
from odradek.controller.state.groups.decide import GroupDecision, decide, on_topics_changed
from odradek.controller.state.groups.model import (
    Assignment,
    Group,
    Member,
    MemberProfile,
    MemberState,
    SubscribedTopic,
    TopicIdPartition,
    TopicsView,
)
from odradek.controller.state.groups.records import (
    AssignmentChanged,
    GroupChanged,
    GroupRecord,
    GroupRemoved,
    MemberChanged,
    MemberRemoved,
    TargetChanged,
    apply,
    snapshot,
)

__all__ = [
    "Assignment",
    "AssignmentChanged",
    "Group",
    "GroupChange",
    "GroupChanged",
    "GroupChanges",
    "GroupDecision",
    "GroupDeleted",
    "GroupRecord",
    "GroupRemoved",
    "Member",
    "MemberChanged",
    "MemberJoined",
    "MemberLeft",
    "MemberOwns",
    "MemberProfile",
    "MemberRemoved",
    "MemberState",
    "SubscribedTopic",
    "TargetChanged",
    "TopicIdPartition",
    "TopicsView",
    "apply",
    "decide",
    "on_topics_changed",
    "snapshot",
]
