"""The tail cache answers right or not at all."""

from hypothesis import given
from hypothesis import strategies as st

from odradek.node.storage.tail_cache import TailCache
from odradek.protocol.types import Offset, PartitionUid

A, B = PartitionUid(1), PartitionUid(2)
FAR = Offset(10**9)


def fill(cache: TailCache, uid: PartitionUid, count: int, size: int = 10) -> None:
    for i in range(count):
        cache.append(uid, Offset(2 * i), Offset(2 * i + 2), bytes([i]) * size)


def test_a_tailing_reader_is_served_from_memory() -> None:
    cache = TailCache(1000)
    fill(cache, A, 5)
    assert cache.read(A, Offset(5), FAR, 1000) == [bytes([i]) * 10 for i in (2, 3, 4)]
    assert cache.read(A, Offset(0), FAR, 25) == [bytes([0]) * 10, bytes([1]) * 10]
    assert cache.read(A, Offset(0), FAR, 1) == [bytes([0]) * 10]
    assert cache.read(A, Offset(0), Offset(3), 1000) == [bytes([0]) * 10]
    assert cache.read(A, Offset(2), Offset(3), 1000) == []
    assert cache.read(A, Offset(10), FAR, 1000) is None
    assert cache.read(B, Offset(0), FAR, 1000) is None


def test_the_oldest_batch_goes_first_whosever_it_is() -> None:
    cache = TailCache(50)
    fill(cache, A, 3)
    fill(cache, B, 3)
    assert cache.bytes_held == 50
    assert cache.read(A, Offset(0), FAR, 1000) is None
    assert cache.read(A, Offset(2), FAR, 1000) == [bytes([1]) * 10, bytes([2]) * 10]
    assert cache.read(B, Offset(0), FAR, 10) == [bytes([0]) * 10]


def test_nothing_is_cached_without_room() -> None:
    cache = TailCache(0)
    fill(cache, A, 3)
    assert cache.read(A, Offset(4), FAR, 10) is None
    assert cache.bytes_held == 0


def test_a_gap_starts_the_tail_anew() -> None:
    cache = TailCache(1000)
    fill(cache, A, 3)
    cache.append(A, Offset(50), Offset(51), b"later")
    assert cache.read(A, Offset(0), FAR, 1000) is None
    assert cache.read(A, Offset(50), FAR, 1000) == [b"later"]
    assert cache.bytes_held == 5


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from([A, B]), st.integers(1, 3)),
        st.tuples(st.just("truncate"), st.sampled_from([A, B]), st.integers(0, 20)),
        st.tuples(st.just("discard"), st.sampled_from([A, B]), st.just(0)),
    ),
    max_size=80,
)


@given(steps, st.integers(0, 200))
def test_answers_match_the_log(actions: list[tuple[str, PartitionUid, int]], bound: int) -> None:
    cache = TailCache(bound)
    logs: dict[PartitionUid, list[tuple[int, int, bytes]]] = {A: [], B: []}
    for number, (action, uid, argument) in enumerate(actions):
        log = logs[uid]
        if action == "append":
            base = log[-1][1] if log else 0
            data = f"{number}".encode() * 4 * argument
            log.append((base, base + argument, data))
            cache.append(uid, Offset(base), Offset(base + argument), data)
        elif action == "truncate":
            while log and log[-1][1] > argument:
                log.pop()
            cache.truncate(uid, Offset(log[-1][1] if log else 0))
        else:
            cache.discard(uid)
        assert 0 <= cache.bytes_held <= bound
        for reader, kept in logs.items():
            for base, _, _ in kept:
                found = cache.read(reader, Offset(base), FAR, 10**6)
                if found is not None:
                    assert found == [data for start, _, data in kept if start >= base]
    for uid in logs:
        cache.discard(uid)
    assert cache.bytes_held == 0
    assert not cache._order
