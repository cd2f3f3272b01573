"""The pure core: what comes costs about its bytes, however it is cut and whatever it asks for."""

import struct
import sys
import time

import pytest

from odradek.rpc.http2 import credit, frames
from odradek.rpc.http2.connection import Connection
from odradek.rpc.http2.events import MessageReceived
from odradek.rpc.http2.frames import Setting
from odradek.rpc.http2.streams import PREFIX
from tests.rpc.http2.peers import Blocks, data, grants, greeted_server, prefixed, sent

_SLOT_BYTES = 8
"""Of a queue."""


def test_tiny_frames_cost_about_their_bytes() -> None:
    server, size, parts_max = greeted_server(), 100_000, 0
    server.receive(Blocks().opened(1))
    stream = server.streams[1]
    server.receive(data(1, PREFIX.pack(0, size)))
    tiny = data(1, b"x") * 500
    for _ in range(size // 500 - 1):
        assert server.receive(tiny) == []
        parts_max = max(parts_max, len(stream._parts))
    assert parts_max <= 1_000
    (event,) = server.receive(tiny)
    assert isinstance(event, MessageReceived)
    assert event.data == b"x" * size


def seconds(server: Connection, raw: bytes) -> float:
    start_s = time.process_time()
    server.receive(raw)
    return time.process_time() - start_s


def test_small_messages_in_one_frame_cost_no_more_each_than_those_in_many() -> None:
    def cost(count: int, frame_count: int) -> float:
        server = greeted_server()
        server.receive(Blocks().opened(1))
        return seconds(server, data(1, prefixed(b"") * count) * frame_count)

    apart_s = min(cost(500, 200) for _ in range(3))
    together_s = min(cost(100_000, 1) for _ in range(2))
    assert together_s < 2.5 * apart_s


@pytest.mark.parametrize("per_frame", [1, 100])
def test_unread_messages_are_bounded_by_what_they_take_not_by_what_they_say(
    monkeypatch: pytest.MonkeyPatch, per_frame: int
) -> None:
    window_bytes, unread_bytes_max = 1 << 16, 1 << 18
    monkeypatch.setattr(credit, "CONNECTION_WINDOW_BYTES", window_bytes)
    monkeypatch.setattr(credit, "CONNECTION_UNREAD_BYTES_MAX", unread_bytes_max)
    server = greeted_server()
    server.receive(Blocks().opened(1))
    sent(server)
    body = prefixed(b"xy") * per_frame
    unread: list[MessageReceived] = []
    came, granted = 0, window_bytes
    while came + len(body) <= granted:
        unread += [each for each in server.receive(data(1, body)) if type(each) is MessageReceived]
        came += len(body)
        granted += grants(sent(server))[0]
    taken_bytes = sum(sys.getsizeof(each.data) + _SLOT_BYTES for each in unread)
    window_messages = window_bytes // len(prefixed(b"xy"))
    assert taken_bytes <= unread_bytes_max + window_messages * credit.KEPT_BYTES
    for each in unread:
        server.consume(each.stream, len(each.data))
    granted += grants(sent(server))[0]
    assert came + window_bytes // 2 <= granted <= came + window_bytes


def crowded_server(count: int) -> Connection:
    server, blocks = greeted_server(streams_max=count), Blocks()
    server.receive(frames.encode_settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    server.receive(b"".join(blocks.opened(2 * each + 1) for each in range(count)))
    for stream in server.streams.values():
        server.sender.message(stream, b"x")
    sent(server)
    return server


@pytest.mark.parametrize("name", ["updates", "settings"])
def test_what_a_few_bytes_make_a_crowded_connection_do_is_bounded(name: str) -> None:
    update = frames.encode_window_update(0, 1)
    settings_frame = frames.encode(
        frames.SETTINGS, 0, 0, b"".join(struct.pack(">HI", 4, each % 2) for each in range(500))
    )
    raw = {"updates": update * 200, "settings": settings_frame}[name]
    alone_s = min(seconds(crowded_server(1), raw) for _ in range(3))
    crowded_s = seconds(crowded_server(2_000), raw)
    assert crowded_s < 20 * alone_s + 0.05
