"""A data directory belongs to one node of one cluster for good."""

from pathlib import Path

import pytest

from odradek.node.storage import bind_cluster, open_identity
from odradek.protocol.errors import (
    DuplicateNodeRegistrationError,
    InconsistentClusterIdError,
    StorageError,
)
from odradek.protocol.types import NodeId

ONE, TWO = NodeId(1), NodeId(2)


def test_the_directory_keeps_its_uuid(tmp_path: Path) -> None:
    first = open_identity(tmp_path / "a" / "data", ONE)
    assert first.cluster_id == ""
    assert open_identity(tmp_path / "a" / "data", ONE) == first
    assert open_identity(tmp_path / "b", ONE).directory_uuid != first.directory_uuid


def test_the_cluster_is_filled_in_once(tmp_path: Path) -> None:
    identity = bind_cluster(tmp_path, open_identity(tmp_path, ONE), "blue")
    assert open_identity(tmp_path, ONE) == identity
    assert open_identity(tmp_path, ONE, "blue") == identity
    with pytest.raises(InconsistentClusterIdError) as error:
        open_identity(tmp_path, ONE, "green")
    assert (error.value.value, error.value.limit) == ("green", "blue")
    assert open_identity(tmp_path, ONE).cluster_id == "blue"


def test_another_nodes_directory_is_refused(tmp_path: Path) -> None:
    open_identity(tmp_path, ONE)
    with pytest.raises(DuplicateNodeRegistrationError) as error:
        open_identity(tmp_path, TWO)
    assert (error.value.value, error.value.limit) == ("2", "1")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"node_id": 1}', '{"x": 1}'])
def test_an_unreadable_identity_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "identity.json").write_text(content)
    with pytest.raises(StorageError) as error:
        open_identity(tmp_path, ONE)
    assert error.value.field == "identity"
