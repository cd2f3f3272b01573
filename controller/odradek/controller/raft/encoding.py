"""Messages to protobuf and back: the allow-list of what may cross the wire.

Idea: every field of an incoming frame is checked here, so that the core can trust the shape of a
message (though not its truth). Anything else fails the sender's stream.
"""

from typing import assert_never

from odradek.controller.raft.interface import COMMAND_BYTES_MAX
from odradek.controller.raft.messages import (
    COMMAND_PREFIX,
    NO_OP,
    AppendAnswer,
    AppendEntries,
    Entry,
    InstallSnapshot,
    Introduction,
    Message,
    RequestVote,
    SnapshotAnswer,
    VoteAnswer,
)
from odradek.protocol.errors import InvalidRequestError
from odradek.v1 import raft_pb2

SNAPSHOT_BYTES_MAX = 512 * 1024 * 1024
"""A controller's state is far smaller; a receiver must not be made to allocate more."""


def encode(message: Message) -> raft_pb2.ExchangeRequest:
    """Make the frame that carries `message`."""
    match message:
        case RequestVote():
            return raft_pb2.ExchangeRequest(
                request_vote=raft_pb2.RequestVote(
                    term=message.term,
                    last_log_index=message.last_log_index,
                    last_log_term=message.last_log_term,
                    pre_vote=message.pre_vote,
                )
            )
        case VoteAnswer():
            return raft_pb2.ExchangeRequest(
                vote_answer=raft_pb2.VoteAnswer(
                    term=message.term, granted=message.granted, pre_vote=message.pre_vote
                )
            )
        case AppendEntries():
            return raft_pb2.ExchangeRequest(append_entries=_encode_append(message))
        case AppendAnswer():
            return raft_pb2.ExchangeRequest(
                append_answer=raft_pb2.AppendAnswer(
                    term=message.term,
                    success=message.success,
                    index=message.index,
                    next_index=message.next_index,
                    rejoin_nonce=message.rejoin_nonce,
                )
            )
        case InstallSnapshot():
            return raft_pb2.ExchangeRequest(
                install_snapshot=raft_pb2.InstallSnapshot(
                    term=message.term,
                    last_index=message.last_index,
                    last_term=message.last_term,
                    offset=message.offset,
                    data=message.data,
                    total_bytes=message.total_bytes,
                )
            )
        case SnapshotAnswer():
            return raft_pb2.ExchangeRequest(
                snapshot_answer=raft_pb2.SnapshotAnswer(
                    term=message.term,
                    last_index=message.last_index,
                    next_offset=message.next_offset,
                    rejoin_nonce=message.rejoin_nonce,
                )
            )
        case Introduction():
            return raft_pb2.ExchangeRequest(
                introduction=raft_pb2.Introduction(
                    nonce=message.nonce, known_nonce=message.known_nonce
                )
            )
        case _:
            assert_never(message)


def decode(frame: raft_pb2.ExchangeRequest) -> Message:
    """Return the message in a frame.

    Raises:
        InvalidRequestError: It holds none of the allow-list, or an impossible one.
    """
    kind = frame.WhichOneof("frame")
    match kind:
        case "request_vote":
            vote = frame.request_vote
            return RequestVote(
                vote.term, vote.last_log_index, vote.last_log_term, pre_vote=vote.pre_vote
            )
        case "vote_answer":
            verdict = frame.vote_answer
            return VoteAnswer(verdict.term, verdict.granted, pre_vote=verdict.pre_vote)
        case "append_entries":
            return _decode_append(frame.append_entries)
        case "append_answer":
            answer = frame.append_answer
            return AppendAnswer(
                answer.term, answer.success, answer.index, answer.next_index, answer.rejoin_nonce
            )
        case "install_snapshot":
            return _decode_snapshot(frame.install_snapshot)
        case "snapshot_answer":
            got = frame.snapshot_answer
            return SnapshotAnswer(got.term, got.last_index, got.next_offset, got.rejoin_nonce)
        case "introduction":
            return _decode_introduction(frame.introduction)
        case _:
            raise InvalidRequestError(
                f"a raft frame must hold a message, not {kind!r}", field="frame", value=kind
            )


def _encode_append(message: AppendEntries) -> raft_pb2.AppendEntries:
    return raft_pb2.AppendEntries(
        term=message.term,
        commit_index=message.commit_index,
        prev_log_index=message.prev_log_index,
        prev_log_term=message.prev_log_term,
        entries=[_encode_entry(entry) for entry in message.entries],
        rejoin_nonce=message.rejoin_nonce,
        voter_from_index=message.voter_from_index,
    )


def _encode_entry(entry: Entry) -> raft_pb2.RaftEntry:
    if entry.command == NO_OP:
        return raft_pb2.RaftEntry(term=entry.term, kind=raft_pb2.ENTRY_KIND_NO_OP)
    assert entry.command.startswith(COMMAND_PREFIX), "the log holds no-ops and commands only"
    return raft_pb2.RaftEntry(
        term=entry.term, kind=raft_pb2.ENTRY_KIND_COMMAND, command=entry.command[1:]
    )


def _decode_append(append: raft_pb2.AppendEntries) -> AppendEntries:
    entries = tuple(
        _decode_entry(entry, append.prev_log_index + place)
        for place, entry in enumerate(append.entries, start=1)
    )
    terms = [append.prev_log_term, *(entry.term for entry in entries), append.term]
    if terms != sorted(terms):
        raise InvalidRequestError(
            "terms in the log must not fall, nor exceed the leader's",
            field="append_entries.entries.term",
            value=terms,
        )
    return AppendEntries(
        term=append.term,
        commit_index=append.commit_index,
        prev_log_index=append.prev_log_index,
        prev_log_term=append.prev_log_term,
        entries=entries,
        rejoin_nonce=append.rejoin_nonce,
        voter_from_index=append.voter_from_index,
    )


def _decode_entry(entry: raft_pb2.RaftEntry, index: int) -> Entry:
    if entry.kind == raft_pb2.ENTRY_KIND_NO_OP:
        return Entry(NO_OP, index, entry.term)
    if entry.kind != raft_pb2.ENTRY_KIND_COMMAND:
        raise InvalidRequestError(
            f"unknown kind of log entry: {entry.kind}",
            field="append_entries.entries.kind",
            value=entry.kind,
        )
    if len(entry.command) > COMMAND_BYTES_MAX:
        raise InvalidRequestError(
            f"a command of {len(entry.command)} bytes exceeds {COMMAND_BYTES_MAX}",
            field="append_entries.entries.command",
            value=len(entry.command),
            limit=COMMAND_BYTES_MAX,
        )
    return Entry(COMMAND_PREFIX + entry.command, index, entry.term)


def _decode_introduction(introduction: raft_pb2.Introduction) -> Introduction:
    if introduction.nonce == introduction.known_nonce == 0:
        raise InvalidRequestError(
            "an introduction must name a disk", field="introduction.nonce", value=0
        )
    return Introduction(introduction.nonce, introduction.known_nonce)


def _decode_snapshot(piece: raft_pb2.InstallSnapshot) -> InstallSnapshot:
    if piece.total_bytes > SNAPSHOT_BYTES_MAX:
        raise InvalidRequestError(
            f"a snapshot of {piece.total_bytes} bytes exceeds {SNAPSHOT_BYTES_MAX}",
            field="install_snapshot.total_bytes",
            value=piece.total_bytes,
            limit=SNAPSHOT_BYTES_MAX,
        )
    if piece.total_bytes == 0 or piece.offset + len(piece.data) > piece.total_bytes:
        raise InvalidRequestError(
            "a piece of a snapshot reaches beyond its end",
            field="install_snapshot.offset",
            value=piece.offset + len(piece.data),
            limit=piece.total_bytes,
        )
    return InstallSnapshot(
        term=piece.term,
        last_index=piece.last_index,
        last_term=piece.last_term,
        offset=piece.offset,
        data=piece.data,
        total_bytes=piece.total_bytes,
    )
