"""What waits for the controller: order, debounce, bounds."""

from odradek.node.coordination.model import Change, Joined, Left, Owns
from odradek.node.coordination.outbox import Outbox
from odradek.protocol.types import GroupId, MemberId

from .cluster import gps

G, H = GroupId("g"), GroupId("h")


def join(name: str) -> Joined:
    return Joined(
        member_id=MemberId(name),
        instance_id="",
        rack="",
        client_id="",
        client_host="",
        rebalance_timeout_s=60.0,
        topics=frozenset(),
        assignor="",
    )


def leave(name: str) -> Left:
    return Left(member_id=MemberId(name))


def test_joins_wait_for_each_other() -> None:
    outbox = Outbox()
    outbox.add(G, join("a"), 10.25)
    outbox.add(G, join("b"), 10.40)
    assert outbox.next_due_s == 10.25
    assert outbox.take(10.2) == []
    assert outbox.take(10.25) == [(G, join("a")), (G, join("b"))]
    assert outbox.next_due_s is None


def test_what_is_urgent_takes_along_what_waits_before_it() -> None:
    outbox = Outbox()
    outbox.add(G, join("a"), 10.25)
    outbox.add(H, join("c"), 10.25)
    outbox.add(G, leave("a"), 10.0)
    assert outbox.take(10.0) == [(G, join("a")), (G, leave("a"))]
    assert outbox.next_due_s == 10.25


def test_a_command_is_bounded_and_keeps_the_order() -> None:
    outbox = Outbox()
    large = Owns(
        member_id=MemberId("a"),
        member_epoch=1,
        owned=frozenset(gps(index) for index in range(5000)),
    )
    changes: list[Change] = [large, leave("a"), large, large]
    for change in changes:
        outbox.add(G, change, 0.0)
    taken: list[Change] = []
    while command := outbox.take(0.0):
        assert len(command) <= 2
        taken += [change for _, change in command]
    assert taken == changes


def test_one_change_larger_than_a_command_still_leaves() -> None:
    outbox = Outbox()
    huge = Owns(
        member_id=MemberId("a"),
        member_epoch=1,
        owned=frozenset(gps(index) for index in range(9000)),
    )
    outbox.add(G, huge, 0.0)
    assert outbox.take(0.0) == [(G, huge)]
