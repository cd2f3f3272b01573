"""A producer that writes down each send before it begins and each outcome as it comes."""

import asyncio
import random
import zlib
from dataclasses import dataclass
from typing import Final

from odradek.client import Delivery, DeliveryTimeoutError, serdes
from odradek.client.errors import BufferFullError
from odradek.protocol.errors import OdradekError
from tests.chaos.history import HistoryFile, Phase, Send, now_ns
from tests.chaos.role import Role

_RECORDS_MAX: Final = 8
_UNANSWERED_MAX: Final = 20_000
_VALUES_PER_PRODUCER: Final = 1 << 32
_SEED_MAX: Final = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Pace:
    """How a producer sends.

    Attributes:
        rate: Operations a second, of 1 to 8 records for one partition each.
        partitions: They take turns.
        delivery_timeout_s: After it the producer gives a record up, with an unknown outcome.
    """

    rate: float
    partitions: int
    delivery_timeout_s: float


async def produce(role: Role, pace: Pace) -> None:
    """Send until told to stop, then wait for every outcome."""
    seed = zlib.crc32(role.name.encode()) & _SEED_MAX
    history = role.history
    chance = random.Random(seed)
    value, number = seed * _VALUES_PER_PRODUCER, 0
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    room = asyncio.Semaphore(_UNANSWERED_MAX)
    async with (
        role.client.producer(
            value=serdes.int64, delivery_timeout_s=pace.delivery_timeout_s
        ) as producer,
        asyncio.TaskGroup() as outcomes,
    ):
        while not role.stop.is_set():
            await room.acquire()
            count = chance.randint(1, _RECORDS_MAX)
            values = tuple(range(value, value + count))
            value, number = value + count, number + 1
            partition = number % pace.partitions
            sent = Send(now_ns(), role.name, number, Phase.INVOKE, partition, values)
            history.write(sent)
            try:
                deliveries = [
                    await producer.enqueue(role.topic, each, partition=partition) for each in values
                ]
            except OdradekError as error:
                # Those before it in the same operation were accepted: what became of them is open.
                history.write(_outcome(sent, Phase.INFO, error=repr(error)))
                room.release()
                continue
            outcomes.create_task(_write_outcome(history, sent, deliveries, room))
            due_s = max(due_s + 1 / pace.rate, loop.time() - 1)
            await asyncio.sleep(max(0.0, due_s - loop.time()))


async def _write_outcome(
    history: HistoryFile, sent: Send, deliveries: list[Delivery], room: asyncio.Semaphore
) -> None:
    offsets: list[int] = []
    errors: list[OdradekError] = []
    for delivery in deliveries:
        try:
            offsets.append((await delivery).offset)
        except OdradekError as error:
            errors.append(error)
    room.release()
    if not errors:
        history.write(_outcome(sent, Phase.OK, tuple(offsets)))
    elif not offsets and all(_surely_absent(error) for error in errors):
        history.write(_outcome(sent, Phase.FAIL, error=repr(errors[0])))
    else:
        history.write(_outcome(sent, Phase.INFO, error=repr(errors[0])))


def _outcome(sent: Send, phase: Phase, offsets: tuple[int, ...] = (), error: str = "") -> Send:
    return Send(
        now_ns(), sent.process, sent.number, phase, sent.partition, sent.values, offsets, error
    )


def _surely_absent(error: OdradekError) -> bool:
    """Whether the SDK promises that nothing of a failed send is, or will be, in the log."""
    if isinstance(error, DeliveryTimeoutError):
        return not error.maybe_appended
    return isinstance(error, BufferFullError)
