"""Who has something to say says it in the next pass; who does not listen is not shouted at."""

import asyncio
from collections import deque

import pytest

from odradek.rpc import outlet
from odradek.rpc.outlet import Outlet


class End:
    """Our end of a stream, to a peer that takes so many messages."""

    def __init__(self, takes: int = 1_000) -> None:
        self.said: list[str] = []
        self.takes = takes
        self.has_left = asyncio.Event()
        self.holds = 0
        self.holds_max = 0

    def hold(self) -> None:
        self.holds += 1
        self.holds_max = max(self.holds, self.holds_max)

    def let_go(self) -> None:
        self.holds -= 1

    def offer(self, message: str) -> bool:
        assert self.takes, "the message before has not left"
        self.said.append(message)
        self.takes -= 1
        return self.takes > 0

    async def drained(self) -> None:
        if not self.takes:
            await self.has_left.wait()


class Talk:
    """What is to be said."""

    def __init__(self, end: End) -> None:
        self.waiting: deque[str] = deque()
        self.end = end
        self.outlet = Outlet[str](end, self.next_message)
        self.running = asyncio.ensure_future(self.outlet.run())

    def next_message(self) -> str | None:
        if not self.waiting:
            return None
        message = self.waiting.popleft()
        if message == "":
            raise ValueError("nothing can be made of it")
        return message

    def say(self, *messages: str) -> None:
        self.waiting += messages
        self.outlet.wake()


async def test_all_that_one_pass_brings_is_said_in_the_next() -> None:
    talk = Talk(End())
    await asyncio.sleep(0)
    talk.say("a")
    talk.say("b", "c")
    assert talk.end.said == []
    assert talk.end.holds == 1, "what else the connection says waits for it"
    await asyncio.sleep(0)
    assert talk.end.said == ["a", "b", "c"]
    assert talk.end.holds == 0
    talk.outlet.close()
    await talk.running


async def test_what_was_to_be_said_before_it_ran_is_said_when_it_runs() -> None:
    end = End()
    talk = Talk(end)
    talk.say("early")
    await asyncio.sleep(0)
    assert end.said == ["early"]
    assert (end.holds, end.holds_max) == (0, 1)
    talk.running.cancel()


async def test_a_peer_that_takes_nothing_is_waited_for() -> None:
    talk = Talk(End(takes=2))
    await asyncio.sleep(0)
    talk.say("a", "b", "c")
    await asyncio.sleep(0)
    talk.say("d")
    await asyncio.sleep(0)
    assert talk.end.said == ["a", "b"]
    talk.end.takes = 10
    talk.end.has_left.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert talk.end.said == ["a", "b", "c", "d"]
    assert talk.end.holds == 0
    talk.running.cancel()


async def test_closing_waits_for_what_was_said_and_says_nothing_more() -> None:
    talk = Talk(End(takes=1))
    await asyncio.sleep(0)
    talk.say("a", "b")
    await asyncio.sleep(0)
    talk.outlet.close()
    await asyncio.sleep(0)
    assert not talk.running.done()
    talk.end.takes = 10
    talk.end.has_left.set()
    await asyncio.wait_for(talk.running, 5)
    assert talk.end.said == ["a"]


async def test_who_says_much_leaves_turns_to_others() -> None:
    count = 4 * outlet._PASS_MAX
    talk = Talk(End(takes=2 * count))
    await asyncio.sleep(0)
    messages = [str(number) for number in range(count)]
    talk.say(*messages)
    for turn in range(1, 5):
        await asyncio.sleep(0)
        assert talk.end.said == messages[: turn * outlet._PASS_MAX]
    await asyncio.sleep(0)
    assert talk.end.holds == 0
    talk.running.cancel()


async def test_who_runs_it_hears_what_went_wrong() -> None:
    talk = Talk(End())
    await asyncio.sleep(0)
    talk.say("a", "", "b")
    with pytest.raises(ValueError, match="nothing can be made"):
        await asyncio.wait_for(talk.running, 5)
    assert talk.end.said == ["a"]
    assert talk.end.holds == 0
