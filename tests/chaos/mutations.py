"""Ways in which a valid history goes wrong, each with the anomaly that must then be found.

A mutation takes the events and a source of chance, and returns other events, or None when this
history offers no occasion for it.
"""

import random
from collections.abc import Callable
from typing import TypeAlias

from msgspec.structs import replace

from tests.chaos.anomalies import AnomalyKind
from tests.chaos.history import Change, Commit, Event, Phase, Poll, Rebalance, Send, Stop
from tests.chaos.model import FINAL, READERS

Mutation: TypeAlias = Callable[[list[Event], random.Random], list[Event] | None]

_END_NS = 1 << 40


def _acknowledged(events: list[Event]) -> list[Send]:
    return [each for each in events if isinstance(each, Send) and each.phase is Phase.OK]


def _without(poll: Poll, value: int) -> Poll | None:
    kept = [pair for pair in zip(poll.offsets, poll.values, strict=True) if pair[1] != value]
    if not kept:
        return None
    offsets, values = zip(*kept, strict=True)
    return replace(poll, offsets=offsets, values=values)


def _hide(
    events: list[Event], value: int, hidden_from: Callable[[Poll], bool] = lambda _: True
) -> list[Event]:
    """Take a record out of polls."""
    shown: list[Event] = []
    for event in events:
        if isinstance(event, Poll) and value in event.values and hidden_from(event):
            if (rest := _without(event, value)) is not None:
                shown.append(rest)
        else:
            shown.append(event)
    return shown


def _swap(events: list[Event], one: int, other: int) -> list[Event]:
    """Let two records change places in the log, in everybody's eyes."""
    places = {each.values[0]: each.offsets for each in _acknowledged(events)}
    turned = {one: other, other: one}

    def seen(event: Event) -> Event:
        if isinstance(event, Poll):
            return replace(event, values=tuple(turned.get(each, each) for each in event.values))
        if isinstance(event, Send) and event.phase is Phase.OK and event.values[0] in turned:
            return replace(event, offsets=places[turned[event.values[0]]])
        return event

    return [seen(event) for event in events]


def lose(events: list[Event], chance: random.Random) -> list[Event] | None:
    sends = sorted(_acknowledged(events), key=lambda send: send.offsets)[:-1]
    return _hide(events, chance.choice(sends).values[0]) if sends else None


def forget_the_end(events: list[Event], chance: random.Random) -> list[Event] | None:
    last = max((each.offsets[-1] for each in events if isinstance(each, Poll)), default=-1)
    ends = [each for each in _acknowledged(events) if each.offsets == (last,)]
    return _hide(events, ends[0].values[0]) if ends else None


def take_back(events: list[Event], chance: random.Random) -> list[Event] | None:
    read = [
        value
        for each in events
        if isinstance(each, Poll) and each.process in READERS
        for value in each.values
    ]
    if not read:
        return None
    return _hide(events, chance.choice(read), lambda poll: poll.process == FINAL)


def repeat(events: list[Event], chance: random.Random) -> list[Event] | None:
    sends = _acknowledged(events)
    if not sends:
        return None
    value = chance.choice(sends).values
    return [*events, Poll(_END_NS, "late", 0, (len(events) + 1000,), value)]


def overwrite(events: list[Event], chance: random.Random) -> list[Event] | None:
    polls = [index for index, each in enumerate(events) if isinstance(each, Poll)]
    pairs = [(index, each) for index in polls for each in events[index].values]  # type: ignore[union-attr]
    if len({value for _, value in pairs}) < 2:
        return None
    index, value = chance.choice(pairs)
    poll = events[index]
    assert isinstance(poll, Poll)
    other = chance.choice([each for _, each in pairs if each != value])
    values = tuple(other if each == value else each for each in poll.values)
    if (
        len(set(values)) < len(values)
        or sum(each.values.count(value) for each in _polls(events)) < 2
    ):
        return None
    return [*events[:index], replace(poll, values=values), *events[index + 1 :]]


def _polls(events: list[Event]) -> list[Poll]:
    return [each for each in events if isinstance(each, Poll)]


def deny(events: list[Event], chance: random.Random) -> list[Event] | None:
    sends = _acknowledged(events)
    if not sends:
        return None
    denied = chance.choice(sends)
    failed = replace(denied, phase=Phase.FAIL, offsets=())
    return [failed if each is denied else each for each in events]


def invent(events: list[Event], chance: random.Random) -> list[Event] | None:
    return [*events, Poll(_END_NS, "late", 0, (len(events) + 1000,), (chance.randrange(100),))]


def overtake(events: list[Event], chance: random.Random) -> list[Event] | None:
    sends = _acknowledged(events)
    pairs = [
        (one.values[0], other.values[0])
        for one in sends
        for other in sends
        if one.values[0] < other.values[0] and one.process == other.process
    ]
    return _swap(events, *chance.choice(pairs)) if pairs else None


def reorder(events: list[Event], chance: random.Random) -> list[Event] | None:
    invoked = {
        each.values[0]: each.at_ns
        for each in events
        if isinstance(each, Send) and each.phase is Phase.INVOKE
    }
    sends = _acknowledged(events)
    pairs = [
        (one.values[0], other.values[0])
        for one in sends
        for other in sends
        if one.process != other.process and one.at_ns < invoked[other.values[0]]
    ]
    return _swap(events, *chance.choice(pairs)) if pairs else None


def go_back(events: list[Event], chance: random.Random) -> list[Event] | None:
    reader = chance.choice(READERS)
    polls = [each for each in _polls(events) if each.process == reader]
    if len(polls) < 2:
        return None
    late = replace(polls[0], at_ns=_END_NS)
    return [*events, late]


def go_back_within(events: list[Event], chance: random.Random) -> list[Event] | None:
    polls = [each for each in _polls(events) if len(each.values) > 1]
    if not polls:
        return None
    turned = chance.choice(polls)
    other = replace(turned, offsets=turned.offsets[::-1], values=turned.values[::-1])
    return [other if each is turned else each for each in events]


def leave_out(events: list[Event], chance: random.Random) -> list[Event] | None:
    polls = [each for each in _polls(events) if each.process == FINAL]
    if len(polls) < 3:
        return None
    hole = chance.choice(polls[1:-1])
    return [each for each in events if each is not hole]


def leave_out_within(events: list[Event], chance: random.Random) -> list[Event] | None:
    polls = [each for each in _polls(events) if each.process == FINAL and len(each.values) > 2]
    if not polls:
        return None
    poll = chance.choice(polls)
    hole = _without(poll, poll.values[1])
    assert hole is not None
    return [hole if each is poll else each for each in events]


def share(events: list[Event], chance: random.Random) -> list[Event] | None:
    told = [each for each in events if isinstance(each, Rebalance)]
    ends = [each for each in told if each.change is Change.REVOKED]
    # Whoever was killed may have lost its ownership before, which is no anomaly.
    killed = {each.process for each in events if isinstance(each, Stop) and each.killed}
    later = [each for each in told if each.change is Change.ASSIGNED and each.process not in killed]
    pairs = [(end, begin) for end in ends for begin in later if begin.at_ns > end.at_ns]
    if not pairs:
        return None
    end, _ = chance.choice(pairs)
    return [
        *(each for each in events if each is not end),
        replace(end, at_ns=_END_NS),
    ]


def commit_unread(events: list[Event], chance: random.Random) -> list[Event] | None:
    commits = [each for each in events if isinstance(each, Commit) and each.offsets[0] > 0]
    if not commits:
        return None
    end = chance.choice(commits).offsets[0]
    offset = chance.randrange(end)
    value = {
        at: what
        for each in _polls(events)
        for at, what in zip(each.offsets, each.values, strict=True)
    }[offset]
    return _hide(events, value, lambda poll: poll.process.startswith("member"))


def resume_early(events: list[Event], chance: random.Random) -> list[Event] | None:
    committed, taken_over = 0, False
    for index, event in enumerate(events):
        match event:
            case Commit():
                committed = max(committed, event.offsets[0])
            case Rebalance(change=Change.ASSIGNED):
                taken_over = committed > 0
            case Rebalance() | Stop():
                taken_over = False
            case Poll() if event.process.startswith("member") and taken_over:
                first = next(each for each in _polls(events) if 0 in each.offsets)
                early = replace(event, offsets=(0,), values=(first.values[first.offsets.index(0)],))
                return [*events[:index], early, *events[index:]]
    return None


def never_deliver(events: list[Event], chance: random.Random) -> list[Event] | None:
    committed = max((each.offsets[0] for each in events if isinstance(each, Commit)), default=0)
    sends = [each for each in _acknowledged(events) if each.offsets[0] >= committed]
    if not sends or not any(each.process.startswith("member") for each in _polls(events)):
        return None
    value = chance.choice(sends).values[0]
    return _hide(events, value, lambda poll: poll.process.startswith("member"))


MUTATIONS: dict[Mutation, AnomalyKind] = {
    lose: AnomalyKind.LOST_WRITE,
    forget_the_end: AnomalyKind.UNSEEN,
    take_back: AnomalyKind.VANISHED,
    repeat: AnomalyKind.DUPLICATE,
    overwrite: AnomalyKind.INCONSISTENT_OFFSETS,
    deny: AnomalyKind.ABORTED_READ,
    invent: AnomalyKind.PHANTOM,
    overtake: AnomalyKind.NONMONOTONIC_SEND,
    reorder: AnomalyKind.UNORDERED_SENDS,
    go_back: AnomalyKind.NONMONOTONIC_POLL,
    go_back_within: AnomalyKind.INT_NONMONOTONIC_POLL,
    leave_out: AnomalyKind.POLL_SKIP,
    leave_out_within: AnomalyKind.INT_POLL_SKIP,
    share: AnomalyKind.GROUP_DOUBLE_OWNER,
    commit_unread: AnomalyKind.GROUP_SKIP,
    resume_early: AnomalyKind.GROUP_STALE_RESUME,
    never_deliver: AnomalyKind.GROUP_UNSEEN,
}
"""Without the two that need several records in one operation."""
