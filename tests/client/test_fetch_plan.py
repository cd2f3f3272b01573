"""The plan of subscriptions and credit, against a model of the node's side."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from odradek.client.consuming.fetch_plan import (
    Accepted,
    Ended,
    EndKind,
    FetchPlan,
    Frame,
    Leader,
    Subscribe,
)
from odradek.client.consuming.positions import TopicIdPartition
from odradek.protocol.errors import (
    CorruptMessageError,
    InvalidRequestError,
    NotLeaderOrFollowerError,
    OffsetOutOfRangeError,
)
from odradek.protocol.types import (
    LeaderEpoch,
    NodeId,
    Offset,
    PartitionIndex,
    TopicId,
    TopicName,
    TopicPartition,
)

N1, N2 = NodeId(1), NodeId(2)
WINDOW = 1 << 20
TOTAL = 4 << 20


def part(index: int) -> TopicIdPartition:
    return TopicIdPartition(TopicName("t"), PartitionIndex(index), TopicId(b"i" * 16))


P0, P1 = part(0), part(1)


def plan_reading(*indexes: int, node: NodeId = N1) -> FetchPlan:
    plan = FetchPlan(partition_bytes=WINDOW, total_bytes=TOTAL)
    plan.on_stream_opened(node)
    for index in indexes:
        plan.read(part(index), 1, Offset(0), LeaderEpoch(-1), Leader(node, LeaderEpoch(3)))
    return plan


def subscription(frame: Frame) -> Subscribe:
    (one,) = frame.subscribe
    return one


def push(plan: FetchPlan, sub_id: int, size: int, end: int, node: NodeId = N1) -> Accepted:
    accepted = plan.on_push(node, sub_id, size, Offset(end), LeaderEpoch(3))
    assert accepted is not None
    return accepted


def test_the_first_frame_subscribes_and_grants_everything() -> None:
    plan = plan_reading(0)
    assert plan.due_in_s(N1, 0.0) == 0
    frame = plan.frame(N1, 0.0)
    one = subscription(frame)
    assert (one.partition, one.offset, one.leader_epoch) == (P0, 0, 3)
    assert one.credit_bytes == WINDOW
    assert frame.total_credit_bytes == TOTAL
    assert not plan.frame(N1, 0.0)


def test_credit_comes_back_with_the_bytes_that_left_the_buffer() -> None:
    plan = plan_reading(0)
    sub_id = subscription(plan.frame(N1, 0.0)).subscription_id
    small = push(plan, sub_id, 1000, 5)
    assert not plan.frame(N1, 0.0), "nothing was handed out yet"
    plan.on_released(small)
    wait_s = plan.due_in_s(N1, 0.0)
    assert wait_s is not None
    assert 0 < wait_s < 0.1, "little: it may wait for company"
    assert plan.frame(N1, 0.0) == Frame(credits=((sub_id, 1000),), total_credit_bytes=1000)
    big = push(plan, sub_id, WINDOW // 2, 9)
    plan.on_released(big)
    assert plan.due_in_s(N1, 0.0) == 0


def test_a_seek_ends_the_old_subscription_and_drops_what_it_still_pushes() -> None:
    plan = plan_reading(0)
    old = subscription(plan.frame(N1, 0.0)).subscription_id
    before = push(plan, old, 100, 5)
    plan.read(P0, 2, Offset(77), LeaderEpoch(2), Leader(N1, LeaderEpoch(3)))
    frame = plan.frame(N1, 0.0)
    assert frame.unsubscribe == (old,)
    assert subscription(frame).offset == 77
    assert subscription(frame).last_fetched_epoch == 2
    assert plan.on_push(N1, old, 100, Offset(6), LeaderEpoch(3)) is None
    plan.on_released(before)
    # Both came off the stream's total, neither off the new subscription.
    assert plan.frame(N1, 0.0) == Frame(total_credit_bytes=200)


def test_a_new_leader_is_asked_where_the_old_one_s_pushes_ended() -> None:
    plan = plan_reading(0)
    old = subscription(plan.frame(N1, 0.0)).subscription_id
    push(plan, old, 100, 42)
    plan.on_leader(P0.name, Leader(N2, LeaderEpoch(4)))
    assert plan.nodes() == {N2}
    assert plan.frame(N1, 0.0).unsubscribe == (old,)
    plan.on_stream_opened(N2)
    one = subscription(plan.frame(N2, 0.0))
    assert (one.offset, one.leader_epoch, one.last_fetched_epoch) == (42, 4, 3)
    assert one.credit_bytes == WINDOW - 100, "what is buffered still counts"


def test_a_lost_stream_is_subscribed_anew_after_a_delay_that_grows() -> None:
    plan = plan_reading(0)
    plan.frame(N1, 0.0)
    now_s = 0.0
    waits = []
    for _ in range(4):
        plan.on_stream_lost(N1, now_s)
        plan.on_stream_opened(N1)
        assert not plan.frame(N1, now_s).subscribe
        plan.frame(N1, now_s)
        wait_s = plan.due_in_s(N1, now_s)
        assert wait_s is not None
        assert wait_s > 0
        waits.append(wait_s)
        now_s += wait_s
        assert plan.due_in_s(N1, now_s) == 0
        assert plan.frame(N1, now_s).subscribe
    assert waits == sorted(waits)
    assert waits[0] < waits[-1] <= 1.0


def test_what_a_node_s_error_leads_to() -> None:
    for error, kind, still_read in [
        (NotLeaderOrFollowerError(), EndKind.STALE_LEADER, True),
        (CorruptMessageError(), EndKind.RETRY, True),
        (OffsetOutOfRangeError(), EndKind.OUT_OF_RANGE, False),
        (InvalidRequestError(), EndKind.REFUSED, False),
    ]:
        plan = plan_reading(0)
        sub_id = subscription(plan.frame(N1, 0.0)).subscription_id
        assert plan.on_ended(N1, sub_id, error, 0.0) == Ended(P0, 1, kind)
        assert plan.reads(P0.name, 1) is still_read
        assert plan.on_ended(N1, sub_id, error, 0.0) is None, "ended once"


def test_windows_shrink_as_partitions_join_and_the_surplus_is_withheld() -> None:
    plan = plan_reading(0)
    sub_id = subscription(plan.frame(N1, 0.0)).subscription_id
    for index in range(1, 16):
        plan.read(part(index), 1, Offset(0), LeaderEpoch(-1), Leader(N1, LeaderEpoch(3)))
    assert plan.window_bytes == TOTAL // 16
    plan.frame(N1, 0.0)
    first = push(plan, sub_id, WINDOW, 5)
    plan.on_released(first)
    assert dict(plan.frame(N1, 0.0).credits)[sub_id] == TOTAL // 16


def test_nothing_is_subscribed_while_the_window_is_full_of_earlier_pushes() -> None:
    plan = plan_reading(0)
    sub_id = subscription(plan.frame(N1, 0.0)).subscription_id
    full = push(plan, sub_id, WINDOW, 5)
    plan.on_stream_lost(N1, 0.0)
    plan.on_stream_opened(N1)
    assert not plan.frame(N1, 9.0).subscribe
    assert plan.due_in_s(N1, 9.0) is None
    plan.on_released(full)
    assert plan.frame(N1, 9.0).subscribe


class Standing:
    """A subscription as the node sees it."""

    def __init__(self, begun: Subscribe) -> None:
        self.begun = begun
        self.unused = begun.credit_bytes
        self.grant_untouched = True
        self.next_offset = int(begun.offset)


class PlanMachine(RuleBasedStateMachine):
    """A node that pushes as the contract allows, an application that seeks and dawdles."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = FetchPlan(partition_bytes=WINDOW, total_bytes=TOTAL)
        self.now_s = 0.0
        self.node: dict[int, Standing] = {}
        self.open = False
        self.buffer: list[tuple[Accepted, int, int]] = []
        self.generation = 0
        self.seen: dict[TopicPartition, int] = {}

    @rule(index=st.integers(0, 2), offset=st.integers(0, 1000))
    def seek(self, index: int, offset: int) -> None:
        self.generation += 1
        leader = Leader(N1, LeaderEpoch(3))
        gone = [each for each in self.buffer if each[0].partition == part(index)]
        self.buffer = [each for each in self.buffer if each not in gone]
        self.plan.read(part(index), self.generation, Offset(offset), LeaderEpoch(3), leader)
        for accepted, _, _ in gone:
            self.plan.on_released(accepted)
        self.seen[part(index).name] = offset

    @rule()
    def open_stream(self) -> None:
        if not self.open:
            self.open = True
            self.plan.on_stream_opened(N1)

    @precondition(lambda self: self.open)
    @rule()
    def break_stream(self) -> None:
        self.open = False
        self.node.clear()
        self.plan.on_stream_lost(N1, self.now_s)

    @precondition(lambda self: self.open)
    @rule()
    def send_frame(self) -> None:
        self.now_s += 2.0
        frame = self.plan.frame(N1, self.now_s)
        for each in frame.unsubscribe:
            self.node.pop(each, None)
        for begun in frame.subscribe:
            assert begun.subscription_id not in self.node
            self.node[begun.subscription_id] = Standing(begun)
        for each, grant in frame.credits:
            if each in self.node:
                self.node[each].unused += grant
                self.node[each].grant_untouched = self.node[each].unused >= self.plan.window_bytes

    @precondition(lambda self: self.node)
    @rule(data=st.data(), size=st.integers(1, WINDOW * 2), count=st.integers(1, 9))
    def push(self, data: st.DataObject, size: int, count: int) -> None:
        sub_id = data.draw(st.sampled_from(sorted(self.node)))
        standing = self.node[sub_id]
        if size > standing.unused and not standing.grant_untouched:
            return
        standing.unused -= size
        standing.grant_untouched = False
        start, standing.next_offset = standing.next_offset, standing.next_offset + count
        accepted = self.plan.on_push(N1, sub_id, size, Offset(standing.next_offset), LeaderEpoch(3))
        if accepted is not None:
            self.buffer.append((accepted, start, standing.next_offset))

    @precondition(lambda self: self.buffer)
    @rule()
    def hand_out(self) -> None:
        accepted, start, end = self.buffer.pop(0)
        name = accepted.partition.name
        assert start == self.seen[name], "no gap, no repetition, nothing from before a seek"
        self.seen[name] = end
        self.plan.on_released(accepted)

    @invariant()
    def memory_is_bounded(self) -> None:
        for index in range(3):
            held = [each[0].size_bytes for each in self.buffer if each[0].partition == part(index)]
            assert sum(held) <= WINDOW + 2 * WINDOW

    def teardown(self) -> None:
        """Whatever happened: once everything is handed out, each partition can be read on."""
        while self.buffer:
            self.hand_out()
        self.open_stream()
        self.send_frame()
        for standing in self.node.values():
            assert standing.unused == self.plan.window_bytes
        assert {each.begun.partition.name for each in self.node.values()} == self.seen.keys()


TestPlanMachine = PlanMachine.TestCase
