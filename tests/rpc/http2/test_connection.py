"""The pure core: messages arrive whole whatever the frames, and windows are kept."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odradek.rpc.http2 import frames
from odradek.rpc.http2.connection import Connection
from odradek.rpc.http2.credit import (
    CONNECTION_WINDOW_BYTES,
    STREAM_WINDOW_BYTES,
    UNREAD_BYTES_MAX,
)
from odradek.rpc.http2.events import (
    Event,
    HeadersReceived,
    MessageReceived,
    MessageRefused,
    StreamReset,
)
from odradek.rpc.http2.frames import ErrorCode, Setting
from odradek.rpc.http2.streams import (
    MESSAGE_BYTES_MAX,
    PREFIX,
    PREFIX_BYTES,
    Stream,
)
from tests.rpc.http2.peers import (
    GREETING,
    REQUEST,
    Blocks,
    StrictPeer,
    data,
    grants,
    greeted_client,
    greeted_server,
    prefixed,
    resets,
    sent,
    split,
)

OK_TRAILERS = [("grpc-status", "0")]


def messages_of(events: list[Event]) -> list[bytes]:
    return [event.data for event in events if isinstance(event, MessageReceived)]


def receiver_and_frames(*, is_client: bool, payload: bytes) -> tuple[Connection, bytes]:
    """Return an end, and what brings it a stream with these bytes of messages."""
    blocks = Blocks()
    if is_client:
        receiver = greeted_client()
        receiver.open(REQUEST)
        head = blocks.opened(1, [(":status", "200")])
    else:
        receiver, head = greeted_server(), blocks.opened(1)
    return receiver, head + payload


def take_cut(receiver: Connection, raw: bytes, cuts: list[int]) -> list[Event]:
    events: list[Event] = []
    edges = [0, *sorted({cut % (len(raw) + 1) for cut in cuts}), len(raw)]
    for start, stop in pairwise(edges):
        events += receiver.receive(raw[start:stop])
    return events


@pytest.mark.parametrize("is_client", [True, False])
def test_a_message_cut_at_any_byte_arrives_whole(is_client: bool) -> None:  # noqa: FBT001
    body = b"".join(map(prefixed, (b"", b"one", b"twothree")))
    payload = b"".join(data(1, body[start : start + 4]) for start in range(0, len(body), 4))
    _, raw = receiver_and_frames(is_client=is_client, payload=payload)
    for cut in range(len(raw)):
        receiver, raw = receiver_and_frames(is_client=is_client, payload=payload)
        assert messages_of(take_cut(receiver, raw, [cut])) == [b"", b"one", b"twothree"]
    receiver, raw = receiver_and_frames(is_client=is_client, payload=payload)
    assert messages_of(take_cut(receiver, raw, list(range(len(raw))))) == [b"", b"one", b"twothree"]


@given(
    st.booleans(),
    st.lists(st.binary(max_size=300), max_size=8),
    st.lists(st.integers(1, 400), min_size=1, max_size=5),
    st.lists(st.integers(0, 10_000), max_size=20),
    st.booleans(),
)
def test_any_messages_in_any_frames_cut_anywhere_arrive_in_order(
    is_client: bool,  # noqa: FBT001
    messages: list[bytes],
    sizes: list[int],
    cuts: list[int],
    padded: bool,  # noqa: FBT001
) -> None:
    body, payload, turn = b"".join(map(prefixed, messages)), b"", 0
    while body:
        size = sizes[turn % len(sizes)]
        payload += data(1, body[:size], padding=turn % 256 if padded else None)
        body, turn = body[size:], turn + 1
    receiver, raw = receiver_and_frames(is_client=is_client, payload=payload)
    assert messages_of(take_cut(receiver, raw, cuts)) == messages


SMALL = st.tuples(st.integers(0, 20), st.integers(1, 30), st.integers(0, 60))
LARGE = st.tuples(st.integers(0, 70_000), st.integers(2_000, 50_000), st.integers(0, 40_000))


@settings(deadline=None)
@given(st.booleans(), st.one_of(SMALL, LARGE), st.lists(st.integers(0, 99), max_size=9), st.data())
def test_a_sender_keeps_within_the_peers_windows_and_frames(
    is_client: bool,  # noqa: FBT001
    scale: tuple[int, int, int],
    turns: list[int],
    draw: st.DataObject,
) -> None:
    window, grant, size_max = scale
    frame_max = draw.draw(st.sampled_from([16_384, 17_000, 1 << 20]))
    peer = StrictPeer(stream_window=window, frame_max=frame_max)
    sender, streams = opened_against(peer, is_client=is_client)
    said: dict[int, bytes] = {each.stream_id: b"" for each in streams}
    for index, turn in enumerate(turns):
        stream = streams[turn % len(streams)]
        message = bytes([index]) * (turn * 7919 % (size_max + 1))
        said[stream.stream_id] += prefixed(message)
        sender.sender.is_paused = draw.draw(st.booleans())
        sender.sender.message(stream, message)
        peer.take(sent(sender))
    sender.resume()
    for stream in streams:
        sender.sender.end(stream, OK_TRAILERS)
    finish(sender, peer, streams, grant)
    assert {each: bytes(peer.data[each]) for each in said} == said


def opened_against(peer: StrictPeer, *, is_client: bool) -> tuple[Connection, list[Stream]]:
    connection = Connection(is_client=is_client)
    if is_client:
        connection.receive(peer.settings())
        streams = [connection.open(REQUEST) for _ in range(3)]
    else:
        connection.receive(frames.PREFACE + peer.settings())
        blocks = Blocks()
        connection.receive(b"".join(blocks.opened(each) for each in (1, 3, 5)))
        streams = list(connection.streams.values())
    peer.take(sent(connection).removeprefix(frames.PREFACE))
    return connection, streams


def finish(sender: Connection, peer: StrictPeer, streams: list[Stream], grant: int) -> None:
    ids = {each.stream_id for each in streams}
    for stream_id in ids:
        assert peer.data[stream_id] is not None  # it may be granted more before it sends
    for _ in range(20_000):
        peer.take(sent(sender))
        if ids <= peer.ended:
            return
        sender.receive(peer.grant(grant))
    pytest.fail("the sender has stopped")


def test_all_streams_together_keep_within_the_connections_window() -> None:
    peer = StrictPeer(stream_window=1 << 20, frame_max=16_384)
    server, streams = opened_against(peer, is_client=False)
    for stream in streams:
        server.sender.message(stream, bytes(10_000))
        server.sender.message(stream, bytes(30_000))
        server.sender.end(stream, OK_TRAILERS)
    peer.take(sent(server))
    assert sum(map(len, peer.data.values())) == frames.WINDOW_BYTES_DEFAULT
    finish(server, peer, streams, 20_000)
    assert {len(each) for each in peer.data.values()} == {40_000 + 2 * PREFIX_BYTES}


def test_while_the_transport_takes_nothing_no_data_is_added() -> None:
    server, blocks = greeted_server(), Blocks()
    server.receive(frames.encode_settings({Setting.INITIAL_WINDOW_SIZE: 4}) + blocks.opened(1))
    server.sender.message(server.streams[1], b"waits")
    server.sender.is_paused = True
    sent(server)
    server.sender.message(server.streams[1], b"too")
    server.receive(frames.encode_window_update(1, 50) + frames.encode_window_update(0, 50))
    server.receive(frames.encode_settings({Setting.INITIAL_WINDOW_SIZE: 99}))
    assert [each[0] for each in split(sent(server))] == [frames.SETTINGS]
    server.resume()
    said = b"".join(payload for *_, payload in split(sent(server)))
    assert said == (prefixed(b"waits") + prefixed(b"too"))[4:]


def test_trailers_come_after_the_data_that_waits() -> None:
    peer = StrictPeer(stream_window=4, frame_max=16_384)
    server, (stream, *_) = opened_against(peer, is_client=False)
    server.sender.message(stream, b"late")
    server.sender.end(stream, OK_TRAILERS)
    peer.take(sent(server))
    assert bytes(peer.data[1]) == prefixed(b"late")[:4]
    assert not peer.ended
    server.receive(peer.grant(5))
    peer.take(sent(server))
    assert (bytes(peer.data[1]), peer.trailers[1]) == (prefixed(b"late"), OK_TRAILERS)


def test_two_hundred_megabytes_flow_through_the_windows_while_little_is_unread() -> None:
    client, server = greeted_client(), greeted_server()
    server.receive(sent(client))
    begin = Connection(is_client=False)
    client.receive(sent(begin))
    stream = client.open(REQUEST)
    unread: list[MessageReceived] = []
    message, count, read, unread_max = bytes(100_000), 2_000, 0, 0
    for _ in range(count):
        client.sender.message(stream, message)
    while read < count:
        events = server.receive(sent(client))
        unread += [event for event in events if isinstance(event, MessageReceived)]
        unread_max = max(unread_max, len(unread) * len(message))
        assert unread, "credit has not come back"
        for event in unread:
            server.consume(event.stream, len(event.data))
        read += len(unread)
        unread.clear()
        client.receive(sent(server))
    assert unread_max <= 2 * STREAM_WINDOW_BYTES
    assert not stream.pending


def test_a_reader_that_does_not_read_is_sent_no_more_than_a_window() -> None:
    server, blocks = greeted_server(), Blocks()
    server.receive(blocks.opened(1))
    events = server.receive(data(1, prefixed(bytes(UNREAD_BYTES_MAX))) * 3)
    granted = grants(sent(server))
    assert granted[1] == 0
    for event in events:
        assert isinstance(event, MessageReceived)
        server.consume(event.stream, len(event.data))
    granted = grants(sent(server))
    assert 0 < granted[1] <= 3 * (UNREAD_BYTES_MAX + PREFIX_BYTES)


@pytest.mark.parametrize("padding", [None, 255])
def test_every_byte_of_consumed_frames_is_granted_anew(padding: int | None) -> None:
    server, blocks = greeted_server(), Blocks()
    server.receive(blocks.opened(1))
    frame = data(1, prefixed(bytes(1_000)), padding=padding)
    granted_all = granted_stream = 0
    count = 4 * CONNECTION_WINDOW_BYTES // (len(frame) - frames.HEADER_BYTES)
    for _ in range(count):
        for event in server.receive(frame):
            assert isinstance(event, MessageReceived)
            server.consume(event.stream, len(event.data))
        granted = grants(sent(server))
        granted_all, granted_stream = granted_all + granted[0], granted_stream + granted[1]
    came = count * (len(frame) - frames.HEADER_BYTES)
    assert came - granted_all <= CONNECTION_WINDOW_BYTES // 2
    assert came - granted_stream <= STREAM_WINDOW_BYTES // 2


def test_data_of_a_reset_stream_is_dropped_but_its_credit_returns() -> None:
    server, blocks = greeted_server(), Blocks()
    server.receive(blocks.opened(1))
    server.reset(server.streams[1], ErrorCode.CANCEL)
    sent(server)
    for _ in range(3 * CONNECTION_WINDOW_BYTES // (1 << 20)):
        assert server.receive(data(1, bytes(1 << 20))) == []
    granted = grants(sent(server))
    assert granted[0] >= 2 * CONNECTION_WINDOW_BYTES
    assert granted[1] == 0


def test_the_connections_credit_returns_when_unread_streams_are_reset() -> None:
    server, blocks = greeted_server(), Blocks()
    window, message, stream_id = CONNECTION_WINDOW_BYTES, prefixed(bytes(1 << 20)), -1
    while window > 4 * len(message):
        stream_id += 2
        server.receive(blocks.opened(stream_id) + data(stream_id, message) * 3)
        window += grants(sent(server))[0] - 3 * len(message)
    server.receive(blocks.opened(stream_id + 2) + data(stream_id + 2, PREFIX.pack(0, window)))
    server.receive(data(stream_id + 2, bytes(window - PREFIX_BYTES)))
    assert grants(sent(server))[0] == 0
    for stream in list(server.streams.values()):
        server.reset(stream, ErrorCode.CANCEL)
    assert grants(sent(server))[0] > 0, "nothing can ever be sent here any more"


def test_large_messages_that_come_at_the_same_time_do_not_wait_for_one_another_for_ever() -> None:
    server, blocks = greeted_server(), Blocks()
    ids, part = (1, 3, 5), bytes(1 << 20)
    server.receive(b"".join(map(blocks.opened, ids)))
    size, window = 60 << 20, CONNECTION_WINDOW_BYTES
    for each in ids:
        server.receive(data(each, PREFIX.pack(0, size)))
    whole = 0
    for _ in range(size // len(part)):
        for each in ids:
            window += grants(sent(server))[0] - len(part)
            assert window > 0, "no message is whole, and nothing more may come"
            whole += len(messages_of(server.receive(data(each, part))))
    assert whole == len(ids)


def test_a_lowered_initial_window_makes_windows_negative_and_they_recover() -> None:
    server = greeted_server()
    server.receive(Blocks().opened(1))
    stream = server.streams[1]
    server.sender.message(stream, bytes(50_000 - PREFIX_BYTES))
    server.receive(frames.encode_settings({Setting.INITIAL_WINDOW_SIZE: 10_000}))
    assert server.sender.stream_window + stream.send_credit == 10_000 - 50_000
    server.sender.message(stream, b"later")
    sent(server)
    server.receive(frames.encode_window_update(1, 40_000))
    assert not [each for each in split(sent(server)) if each[0] == frames.DATA]
    server.receive(frames.encode_window_update(1, 10))
    assert [each[3] for each in split(sent(server)) if each[0] == frames.DATA] == [
        prefixed(b"later")
    ]


def test_a_raised_initial_window_lets_calls_end() -> None:
    server, blocks = greeted_server(), Blocks()
    server.receive(frames.encode_settings({Setting.INITIAL_WINDOW_SIZE: 0}))
    server.receive(blocks.opened(1, ends=True) + blocks.opened(3, ends=True))
    for stream in list(server.streams.values()):
        server.sender.message(stream, b"answer")
        server.sender.end(stream, OK_TRAILERS)
    server.receive(frames.encode_settings({Setting.INITIAL_WINDOW_SIZE: 100}))
    assert not server.streams


def test_what_a_raised_window_lets_go_leaves_after_the_acknowledgement() -> None:
    server = greeted_server()
    server.receive(frames.encode_settings({Setting.INITIAL_WINDOW_SIZE: 4}) + Blocks().opened(1))
    server.sender.message(server.streams[1], b"waits")
    sent(server)
    server.receive(frames.encode_settings({Setting.INITIAL_WINDOW_SIZE: 100}))
    assert [each[0] for each in split(sent(server))] == [frames.SETTINGS, frames.DATA]


def test_more_streams_than_the_limit_are_refused() -> None:
    server, blocks = greeted_server(streams_max=2), Blocks()
    events = server.receive(b"".join(blocks.opened(each) for each in (1, 3, 5, 7)))
    assert [each.stream.stream_id for each in events if isinstance(each, HeadersReceived)] == [1, 3]
    assert resets(sent(server)) == dict.fromkeys((5, 7), ErrorCode.REFUSED_STREAM)
    server.reset(server.streams[1], ErrorCode.CANCEL)
    assert len(server.receive(blocks.opened(9))) == 1


def test_a_goaway_resets_only_the_streams_that_were_not_dealt_with() -> None:
    client = greeted_client()
    streams = [client.open(REQUEST) for _ in range(3)]
    events = client.receive(frames.encode_goaway(3, ErrorCode.NO_ERROR, "bye"))
    assert [each for each in events if isinstance(each, StreamReset)] == [
        StreamReset(streams[2], ErrorCode.REFUSED_STREAM)
    ]
    assert list(client.streams) == [1, 3]
    assert client.is_going_away
    head = frames.encode(frames.HEADERS, frames.END_HEADERS, 1, Blocks().encode(OK_TRAILERS))
    assert len(client.receive(head)) == 1


def test_a_server_that_goes_away_serves_its_streams_and_refuses_others() -> None:
    server, blocks = greeted_server(), Blocks()
    server.receive(blocks.opened(1))
    server.go_away()
    sent(server)
    assert messages_of(server.receive(data(1, prefixed(b"on")))) == [b"on"]
    assert server.receive(blocks.opened(3)) == []
    assert resets(sent(server)) == {3: ErrorCode.REFUSED_STREAM}


@pytest.mark.parametrize(
    "prefix", [prefixed(b"squeezed", flag=1), PREFIX.pack(0, MESSAGE_BYTES_MAX + 1)]
)
def test_a_message_that_cannot_be_taken_is_refused_and_what_follows_dropped(prefix: bytes) -> None:
    server = greeted_server()
    server.receive(Blocks().opened(1))
    (event,) = server.receive(data(1, prefix))
    assert isinstance(event, MessageRefused)
    assert server.receive(data(1, prefixed(b"more"))) == []


def test_a_greeting_cut_at_any_byte_is_understood() -> None:
    for cut in range(len(GREETING)):
        server = Connection(is_client=False)
        assert take_cut(server, GREETING, [cut]) == []
        assert server.is_greeted
