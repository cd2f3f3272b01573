"""What happens to a batch while its segment is rewritten is not undone by the rewriting."""

import os
from pathlib import Path

import pytest

from odradek.node.storage.store import Mutation, Store
from odradek.node.storage.value_log import ValueLog
from odradek.protocol.types import Offset
from tests.node.storage.batches import refuse
from tests.node.storage.test_batch_places import ALL, END, OPTIONS, UID, put, settle

FIRST = Offset(0)


@pytest.mark.parametrize("comes_back", [False, True], ids=["removed", "replaced"])
def test_a_batch_that_changes_after_it_was_copied_keeps_its_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, comes_back: bool
) -> None:
    monkeypatch.setattr("odradek.node.storage.segments._SIZE_MIN_BYTES", 1)
    store = Store(tmp_path, OPTIONS, refuse)
    kept, newer = os.urandom(3000), os.urandom(2000)
    for base, batch in enumerate((os.urandom(3000), kept, os.urandom(9000))):
        put(store, UID, base, batch)
    removal = Mutation()
    removal.delete_batches(UID, Offset(2))
    store.write(removal)
    copied = ValueLog.sync_directory
    changes: list[Mutation] = []

    def change(values: ValueLog) -> None:
        """Run between the copying of a segment and the exchange of its references."""
        copied(values)
        if not changes:
            mutation = Mutation()
            mutation.delete_batches(UID, FIRST, Offset(1))
            if comes_back:
                mutation.put_batch(UID, FIRST, newer)
            changes.append(mutation)
            store.write(mutation)

    monkeypatch.setattr(ValueLog, "sync_directory", change)
    store.reclaim()
    assert changes, "no segment was rewritten"
    left = [newer, kept] if comes_back else [kept]
    assert store.read_batches(UID, FIRST, END, ALL) == left
    settle(store)
    assert store.read_batches(UID, FIRST, END, ALL) == left
    store.close()
    store = Store(tmp_path, OPTIONS, refuse)
    assert store.read_batches(UID, FIRST, END, ALL) == left
    store.close()
