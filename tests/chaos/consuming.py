"""Consumers that write down what they are given before they do anything else with it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final

from odradek.client import Consumer, serdes
from odradek.client.config import RebalanceCallback
from odradek.client.errors import NotAssignedError
from odradek.protocol.errors import OdradekError
from odradek.protocol.types import TopicPartition
from tests.chaos.history import (
    Assign,
    Change,
    Commit,
    HistoryFile,
    Phase,
    Poll,
    Rebalance,
    Stop,
    Subscribe,
    now_ns,
)
from tests.chaos.role import Role

EXPLICIT_GROUP: Final = "explicit"
"""Its members commit themselves, offset by offset."""
AUTOMATIC_GROUP: Final = "automatic"
"""Its members leave that to the SDK."""
GROUPS: Final = (EXPLICIT_GROUP, AUTOMATIC_GROUP)
_COMMIT_INTERVAL_S: Final = 0.3

Sink = Callable[[Poll], None]


def member_name(process: str, group: str) -> str:
    """Return how the member of a group in a process is called in the history."""
    return f"{process}/{group}"


async def read(role: Role, partitions: Iterable[int]) -> None:
    """Read partitions from their start until told to stop."""
    async with role.client.consumer(value=serdes.int64) as consumer:
        role.history.write(Assign(now_ns(), role.name, tuple(partitions)))
        consumer.assign((role.topic, each) for each in partitions)
        await _until(role.stop, _poll(consumer, role.name, role.history, _ignore))


async def drain(role: Role) -> None:
    """Read every partition from its start to its present end."""
    found = await role.client.admin.list_offsets(role.topic)
    ends: dict[int, int] = {each.partition: end for each, end in found.items()}
    missing = {partition for partition, end in ends.items() if end}
    done = asyncio.Event()

    def note(poll: Poll) -> None:
        if poll.offsets[-1] + 1 >= ends[poll.partition]:
            missing.discard(poll.partition)
        if not missing:
            done.set()

    role.history.write(Assign(now_ns(), role.name, tuple(ends), final=True))
    if not missing:
        return
    async with role.client.consumer(value=serdes.int64) as consumer:
        consumer.assign((role.topic, each) for each in ends)
        await _until(done, _poll(consumer, role.name, role.history, note))


async def join(role: Role) -> None:
    """Be a member of both groups until told to stop."""
    async with asyncio.TaskGroup() as members:
        for group in GROUPS:
            members.create_task(_member(role, group))


async def _member(role: Role, group: str) -> None:
    name, history = member_name(role.name, group), role.history
    processed: dict[int, int] = {}

    def told(change: Change) -> RebalanceCallback:
        def write(partitions: Sequence[TopicPartition]) -> None:
            indexes = tuple(each.partition for each in partitions)
            for each in indexes:
                processed.pop(each, None)
            history.write(Rebalance(now_ns(), name, change, indexes))

        return write

    def note(poll: Poll) -> None:
        processed[poll.partition] = poll.offsets[-1] + 1

    history.write(Subscribe(now_ns(), name, group))
    async with role.client.consumer(
        role.topic,
        group=group,
        value=serdes.int64,
        auto_commit=group == AUTOMATIC_GROUP,
        on_assigned=told(Change.ASSIGNED),
        on_revoked=told(Change.REVOKED),
        on_lost=told(Change.LOST),
    ) as consumer:
        polling = _poll(consumer, name, history, note)
        if group == EXPLICIT_GROUP:
            committing = _keep_committing(consumer, role, name, processed)
            await _until(role.stop, polling, committing)
        else:
            await _until(role.stop, polling)
    history.write(Stop(now_ns(), name))


async def _poll(
    consumer: Consumer[bytes, int], name: str, history: HistoryFile, note: Sink
) -> None:
    async for batch in consumer.batches():
        offsets = tuple(record.offset for record in batch)
        values = tuple(record.value for record in batch)
        poll = Poll(now_ns(), name, batch.partition, offsets, values)
        history.write(poll)
        note(poll)


async def _keep_committing(
    consumer: Consumer[bytes, int], role: Role, name: str, processed: dict[int, int]
) -> None:
    committed: dict[int, int] = {}
    history, number = role.history, 0
    while True:
        await asyncio.sleep(_COMMIT_INTERVAL_S)
        due = {each: end for each, end in processed.items() if committed.get(each) != end}
        if not due:
            continue
        number += 1
        write = partial(Commit, process=name, number=number, offsets=due)
        history.write(write(at_ns=now_ns(), phase=Phase.INVOKE))
        try:
            await consumer.commit({(role.topic, each): end for each, end in due.items()})
        except NotAssignedError as error:
            history.write(write(at_ns=now_ns(), phase=Phase.FAIL, error=repr(error)))
        except OdradekError as error:
            history.write(write(at_ns=now_ns(), phase=Phase.INFO, error=repr(error)))
        else:
            history.write(write(at_ns=now_ns(), phase=Phase.OK))
            committed |= due


def _ignore(poll: Poll) -> None:
    del poll


async def _until(stop: asyncio.Event, *activities: Awaitable[None]) -> None:
    """Do things until told to stop; what one of them raises is raised."""
    waiting = asyncio.ensure_future(stop.wait())
    running = [asyncio.ensure_future(activity) for activity in activities]
    try:
        await asyncio.wait({waiting, *running}, return_when=asyncio.FIRST_COMPLETED)
        for activity in running:
            if activity.done():
                activity.result()
    finally:
        for task in (waiting, *running):
            task.cancel()
        await asyncio.gather(waiting, *running, return_exceptions=True)
