"""Those who wait are answered in order, once."""

from hypothesis import given
from hypothesis import strategies as st

from odradek.node.replication.waiting import AckQueue, Pending
from odradek.protocol.errors import BrokerError
from odradek.protocol.types import Offset


class _Silent:
    def committed(
        self, index: int, base_offset: Offset, log_append_time_ms: int, log_start_offset: Offset
    ) -> None:
        """Wait for nothing."""

    def failed(self, index: int, error: BrokerError) -> None:
        """Wait for nothing."""


def _pending(end: int, index: int = 0, size_bytes: int = 0, *, waited: bool = True) -> Pending:
    return Pending(Offset(end), size_bytes, _Silent() if waited else None, index, Offset(0), -1)


def test_an_advance_releases_those_it_covers() -> None:
    queue = AckQueue()
    for end in (3, 5, 5, 9):
        queue.add(_pending(end, size_bytes=10))
    assert [each.end for each in queue.take_through(Offset(5))] == [3, 5, 5]
    assert queue.size_bytes == 10
    assert queue.take_through(Offset(8)) == []


def test_a_duplicate_stands_beside_its_original() -> None:
    queue = AckQueue()
    queue.add(_pending(3, 1))
    queue.add(_pending(9, 2))
    queue.add(_pending(3, 3))
    assert [each.index for each in queue.take_through(Offset(3))] == [1, 3]


def test_bytes_nobody_waits_for_are_counted_but_not_handed_out() -> None:
    queue = AckQueue()
    queue.add(_pending(3, size_bytes=7, waited=False))
    queue.add(_pending(3))
    assert queue.size_bytes == 7
    assert len(queue.take_all()) == 1
    assert queue.size_bytes == 0


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 30)),
            st.tuples(st.just("take"), st.integers(0, 30)),
        )
    )
)
def test_each_is_handed_out_once_and_never_early(steps: list[tuple[str, int]]) -> None:
    queue = AckQueue()
    waiting: dict[int, int] = {}
    for index, (step, offset) in enumerate(steps):
        if step == "add":
            queue.add(_pending(offset, index))
            waiting[index] = offset
        else:
            taken = queue.take_through(Offset(offset))
            assert [each.end for each in taken] == sorted(each.end for each in taken)
            for each in taken:
                assert waiting.pop(each.index) <= offset
            assert all(end > offset for end in waiting.values())
