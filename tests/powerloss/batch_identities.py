"""That one (partition uid, leader epoch, offset) never names two batches, in no disk ever seen.

A leader that lost unsynced batches and went on in its old epoch would give their offsets to other
batches; a follower or a consumer that had seen the first ones would never notice.
"""

from hashlib import blake2b
from pathlib import Path

from odradek.protocol.record_batch import BatchHeader
from odradek.protocol.types import PartitionUid
from tests.node.storage.batches import opened, read_all
from tests.powerloss.disk import Tree
from tests.powerloss.tracer import materialise

_UIDS = range(48)  # the first ones given out: the topics under test and the offsets'


class BatchIdentities:
    """Every batch of every disk it was shown.

    Args:
        scratch: Where disks are put to be read.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._digests: dict[tuple[int, int, int], bytes] = {}

    def __len__(self) -> int:
        return len(self._digests)

    async def note(self, tree: Tree) -> None:
        """Read all batches of a node's disk.

        Raises:
            AssertionError: One of them has the name of another one seen before.
        """
        if not tree:
            return  # it had never been started
        materialise(tree, self._scratch)
        async with opened(self._scratch) as storage:
            for uid in map(PartitionUid, _UIDS):
                for batch in await read_all(storage.log(uid)):
                    header = BatchHeader.parse(batch)
                    name = (uid, header.leader_epoch, header.base_offset)
                    digest = blake2b(batch, digest_size=16).digest()
                    known = self._digests.setdefault(name, digest)
                    assert known == digest, f"two batches are named (uid, epoch, offset) {name}"
