"""What must hold, checked as it happens; and how often a run met what is worth meeting.

The oracle sees everything at once: what each leader commits, what clients are told, what the
controllers decide. Invariants have names; a broken one names itself.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from odradek.controller.state.image import ClusterImage
from odradek.node.coordination.records import OffsetCommitted
from odradek.protocol.types import (
    NO_NODE,
    GroupId,
    LeaderEpoch,
    NodeId,
    Offset,
    PartitionUid,
)
from tests.simulation.cluster.clocks import append_time_ms
from tests.simulation.cluster.disk import Batch

EVENTS = (
    "elections",
    "truncations",
    "elr elections",
    "unclean restarts",
    "stale isr proposals",
    "coordinator moves",
    "clock jumps",
    "records from the future",
    "torn writes",
    "reassignments",
    "drains",
    "controlled stops",
    "preferred leader moves",
)
"""What a run over many seeds must have met at least once."""


class InvariantBrokenError(AssertionError):
    """An invariant does not hold; the message begins with its name."""


def check(holds: bool, invariant: str, detail: str, *values: object) -> None:  # noqa: FBT001
    """Raise unless an invariant holds; the detail is formatted with the values only then."""
    if not holds:
        raise InvariantBrokenError(f"{invariant}: {detail.format(*values)}")


@dataclass(slots=True)
class _Committed:
    """What has been committed of one partition, in order."""

    batches: list[Batch] = field(default_factory=list)
    epochs: list[LeaderEpoch] = field(default_factory=list)  # of the leader that committed each
    by_offset: dict[Offset, Batch] = field(default_factory=dict)
    contents: set[int] = field(default_factory=set)
    sequences: dict[tuple[int, int], int] = field(default_factory=dict)  # the next of a producer

    @property
    def end(self) -> Offset:
        return self.batches[-1].next_offset if self.batches else Offset(0)


@dataclass(slots=True)
class Oracle:
    """Everything that was ever promised.

    Attributes:
        offset_records: The positions that groups commit, by the content of their batch.
    """

    offset_records: Mapping[int, OffsetCommitted]
    met: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    _committed: defaultdict[PartitionUid, _Committed] = field(
        default_factory=partial(defaultdict, _Committed)
    )
    _leaders: dict[tuple[PartitionUid, LeaderEpoch], NodeId] = field(default_factory=dict)
    _named: dict[tuple[PartitionUid, LeaderEpoch, Offset], int] = field(default_factory=dict)
    _owners: dict[tuple[GroupId, object, int], str] = field(default_factory=dict)
    _positions: dict[tuple[GroupId, object], Offset] = field(default_factory=dict)

    # Leaders

    def on_leading(
        self, uid: PartitionUid, epoch: LeaderEpoch, node: NodeId, log: list[Batch]
    ) -> None:
        """A node begins to lead: it must have everything that earlier leaders committed.

        It may learn so late that others have led, and committed more, since.
        """
        known = self._leaders.setdefault((uid, epoch), node)
        check(
            known == node,
            "one leader per epoch",
            "{} and {} lead {} in {}",
            known,
            node,
            uid,
            epoch,
        )
        known_committed = self._committed[uid]
        earlier = bisect_left(known_committed.epochs, epoch)
        committed = known_committed.batches[:earlier]
        check(
            [_content(batch) for batch in log[: len(committed)]] == list(map(_content, committed)),
            "leader completeness",
            "node {} leads {} in epoch {} with {} of {} committed batches",
            node,
            uid,
            epoch,
            len(log),
            len(committed),
        )

    def on_appended(self, uid: PartitionUid, batch: Batch) -> None:
        """A leader appended."""
        name = (uid, batch.leader_epoch, batch.base_offset)
        known = self._named.setdefault(name, batch.crc)
        check(known == batch.crc, "one batch per name", "{}: {}, {}", name, known, batch.crc)

    def on_high_watermark(
        self, uid: PartitionUid, epoch: LeaderEpoch, offset: Offset, log: list[Batch]
    ) -> None:
        """A leader believes that everything below an offset is committed."""
        committed = self._committed[uid]
        for batch in reversed(log):
            if batch.base_offset < offset and batch.base_offset < committed.end:
                theirs = committed.by_offset.get(batch.base_offset)
                check(
                    theirs is not None and theirs.crc == batch.crc,
                    "logs equal below the high watermark",
                    "{} at {}: {} against {}",
                    uid,
                    batch.base_offset,
                    batch,
                    theirs,
                )
                break
        new: list[Batch] = []
        for batch in reversed(log):
            if batch.base_offset < committed.end:
                break
            if batch.next_offset <= offset:
                new.append(batch)
        for batch in reversed(new):
            self._commit(uid, epoch, committed, batch)

    def _commit(
        self, uid: PartitionUid, epoch: LeaderEpoch, committed: _Committed, batch: Batch
    ) -> None:
        check(
            batch.base_offset == committed.end,
            "logs equal below the high watermark",
            "{}: {} committed after {}",
            uid,
            batch.base_offset,
            committed.end,
        )
        committed.batches.append(batch)
        committed.epochs.append(epoch)
        committed.by_offset[batch.base_offset] = batch
        committed.contents.add(batch.crc)
        if batch.has_producer_id:
            name = (batch.producer_id, batch.producer_epoch)
            expected = committed.sequences.get(name, 0)
            check(
                batch.base_sequence == expected,
                "no duplicate" if batch.base_sequence < expected else "no gap",
                "{}: producer and epoch {} come with {}, not {}",
                uid,
                name,
                batch.base_sequence,
                expected,
            )
            committed.sequences[name] = expected + batch.record_count
        record = self.offset_records.get(batch.crc)
        if record is not None:
            place = (record.group, record.partition)
            known = self._positions.setdefault(place, record.offset)
            check(
                record.offset >= known,
                "committed offsets never go back",
                "{} from {} to {}",
                place,
                known,
                record.offset,
            )
            self._positions[place] = record.offset

    def on_replica(self, uid: PartitionUid, high_watermark: Offset, log: list[Batch]) -> None:
        """Compare what a replica has with what is committed, as far as it knows to be."""
        committed = self._committed[uid]
        for batch in log:
            if batch.next_offset > min(high_watermark, committed.end):
                break
            theirs = committed.by_offset.get(batch.base_offset)
            check(
                theirs is not None and theirs.crc == batch.crc,
                "logs equal below the high watermark",
                "{} at {}: {} against {}",
                uid,
                batch.base_offset,
                batch,
                theirs,
            )

    # Clients

    def on_acknowledged(
        self, uid: PartitionUid, offset: Offset, content: int, time_ms: int
    ) -> None:
        """A producer was told that its batch is safe, and unless that is -1, where and when."""
        self.acknowledged += 1
        committed = self._committed[uid]
        found = committed.by_offset.get(offset)
        check(
            content in committed.contents if found is None else found.crc == content,
            "acknowledged means committed",
            "{} was acknowledged at {} of {}, where {} is committed",
            content,
            offset,
            uid,
            found,
        )
        check(
            found is None or time_ms == append_time_ms(found),
            "producers are told the time in the log",
            "{} for {}",
            time_ms,
            found,
        )

    def on_read(self, uid: PartitionUid, batch: Batch) -> None:
        """A consumer was given a batch."""
        found = self._committed[uid].by_offset.get(batch.base_offset)
        check(
            found is not None and found.crc == batch.crc,
            "only committed records are read",
            "{} at {} of {}; committed is {}",
            batch.crc,
            batch.base_offset,
            uid,
            found,
        )

    def committed_batches(self, uid: PartitionUid) -> list[Batch]:
        """Return everything committed of a partition."""
        return self._committed[uid].batches

    # Controllers

    def on_image(self, image: ClusterImage) -> None:
        """Something was decided."""
        for partition in image.partitions.values():
            if partition.leader != NO_NODE:
                key = (partition.uid, partition.leader_epoch)
                known = self._leaders.setdefault(key, partition.leader)
                check(known == partition.leader, "one leader per epoch", "{}, {}", partition, known)
        for group in image.groups.values():
            seen: dict[object, str] = {}
            for member in group.members.values():
                for owned in (*member.assigned, *member.revoking):
                    other = seen.setdefault(owned, member.member_id)
                    check(
                        other == member.member_id,
                        "one owner per partition",
                        "{} of {} is {}'s and {}'s",
                        owned,
                        group.group,
                        other,
                        member.member_id,
                    )
                for owned, epoch in member.assigned.items():
                    name = (group.group, owned, epoch)
                    # A static member's next process takes its place as it is.
                    place = member.profile.instance_id or member.member_id
                    owner = self._owners.setdefault(name, place)
                    check(
                        owner == place,
                        "one owner per epoch",
                        "{} is {}'s and {}'s",
                        name,
                        owner,
                        place,
                    )


def _content(batch: Batch) -> tuple[Offset, int]:
    return batch.base_offset, batch.crc
