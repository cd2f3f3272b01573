"""Accounts of the value log agree with a model, whatever happens in whatever order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odradek.node.storage.segments import REFERENCE_BYTES, LogPoint, Place, Segment, Segments

MIB = 1 << 20


def test_a_reference_leads_back_to_its_place() -> None:
    place = Place(7, 1 << 20, 300, 0xFFFFFFFF)
    assert len(place.pack()) == REFERENCE_BYTES < 61
    assert Place.unpack(place.pack()) == place
    assert place.point == LogPoint(7, 1 << 20)
    segment = Segment(10, 4, is_durable=True)
    assert Segment.unpack(segment.pack()) == segment
    assert segment.garbage_bytes == 6


actions = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 3 * MIB)),
        st.tuples(st.just("refused"), st.integers(1, 3 * MIB)),
        st.tuples(st.just("roll"), st.just(0)),
        st.tuples(st.just("seal"), st.just(0)),
        st.tuples(st.just("release"), st.integers(0, 100)),
        st.tuples(st.just("unlink"), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0)),
    ),
    max_size=60,
)


class Model:
    """Live values and the rows on disk, kept the slow way."""

    def __init__(self) -> None:
        self.segments = Segments({})
        self.rows: dict[int, Segment] = {}
        self.live: list[Place] = []
        self.ends: dict[int, int] = {}
        self.next_number = 1

    def live_bytes(self, number: int) -> int:
        return sum(place.size_bytes for place in self.live if place.segment == number)

    def append(self, size_bytes: int, *, is_refused: bool) -> None:
        if self.segments.active is None:
            self.roll()
        number = self.segments.active
        assert number is not None
        place = Place(number, self.ends[number], size_bytes, 0)
        rows = self.segments.rows([place])
        assert number not in rows, "the active segment has no row"
        if not is_refused:
            self.rows |= rows
            self.segments.changed([place])
            self.ends[number] += size_bytes
            self.live.append(place)

    def roll(self) -> None:
        self.segments.activate(self.next_number)
        self.ends[self.next_number] = 0
        self.next_number += 1

    def release(self, which: int) -> None:
        if not self.live:
            return
        freed: dict[int, int] = {}
        for _ in range(min(which % 5 + 1, len(self.live))):
            place = self.live.pop(which % len(self.live))
            freed[place.segment] = freed.get(place.segment, 0) + place.size_bytes
        self.rows |= self.segments.rows((), freed)
        self.segments.changed((), freed)

    def unlink(self) -> None:
        for number in self.segments.empty():
            assert self.live_bytes(number) == 0
            self.segments.removed(number)
            self.rows.pop(number, None)
            del self.ends[number]

    def reopen(self) -> None:
        """As an opening does: rows where there are some, the rest counted."""
        counted = {
            number: self.rows.get(number, Segment(end, self.live_bytes(number)))
            for number, end in self.ends.items()
        }
        self.segments = Segments(counted)
        self.rows = dict(counted)


@given(actions)
def test_live_bytes_are_exact_at_every_step(steps: list[tuple[str, int]]) -> None:
    model = Model()
    for action, argument in steps:
        match action:
            case "append" | "refused":
                model.append(argument, is_refused=action == "refused")
            case "release":
                model.release(argument)
            case "seal":
                model.segments.seal()
            case "roll":
                model.roll()
            case "unlink":
                model.unlink()
            case _:
                model.reopen()
        for number, end in model.ends.items():
            assert model.segments[number].live_bytes == model.live_bytes(number)
            assert model.segments[number].size_bytes == end
            if number in model.rows:
                assert model.rows[number] == model.segments[number], "a row is never stale"
        assert model.segments.size_bytes == sum(model.ends.values())
        worst = model.segments.to_rewrite(0.5)
        if worst is not None:
            assert model.live_bytes(worst) * 2 <= model.ends[worst]


def test_the_worst_of_the_large_is_rewritten() -> None:
    segments = Segments(
        {
            1: Segment(10 * MIB, 6 * MIB),
            2: Segment(10 * MIB, 2 * MIB),
            3: Segment(10 * MIB, 3 * MIB),
            4: Segment(1000, 1),
            5: Segment(10 * MIB, 10 * MIB),
        }
    )
    assert segments.has_garbage
    assert segments.to_rewrite(0.5) == 2
    assert segments.to_rewrite(0.5, [2]) == 3
    assert segments.to_rewrite(0.5, [2, 3]) is None
    assert segments.to_rewrite(0.1, [2, 3]) == 1
    assert segments.empty() == []


def test_nothing_is_released_twice() -> None:
    segments = Segments({1: Segment(100, 60)})
    segments.changed((), {1: 60})
    assert segments.empty() == [1]
    with pytest.raises(AssertionError, match="twice"):
        segments.rows((), {1: 1})
