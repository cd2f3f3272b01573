"""Whose a data directory is: a controller among others is not one among fewer."""

import re
from pathlib import Path

import pytest

from odradek.controller.raft.filesystem import OsFileSystem, replace_file, seal
from odradek.protocol.errors import InconsistentClusterIdError
from odradek.protocol.types import ControllerId
from odradek.v1 import raft_pb2
from tests.controller.raft.test_storage import ME, filled, open_at


def peers(*ids: int) -> dict[ControllerId, str]:
    return {ControllerId(each): "" for each in ids}


@pytest.mark.parametrize(("before", "after"), [((2, 3), ()), ((), (2, 3)), ((2, 3), (2, 4))])
def test_a_directory_among_other_controllers_is_refused(
    tmp_path: Path, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    """Alone with the data of one of three it would be a quorum."""
    open_at(tmp_path, bootstrap=True, peers=peers(*before))
    both = f"{sorted((ME, *before))}, not {sorted((ME, *after))}"
    with pytest.raises(InconsistentClusterIdError, match=re.escape(both)):
        open_at(tmp_path, bootstrap=True, peers=peers(*after))
    open_at(tmp_path, peers=peers(*reversed(before)))


def test_an_earlier_builds_directory_has_a_vote_and_adopts_the_present_controllers(
    tmp_path: Path,
) -> None:
    files, path = OsFileSystem(), tmp_path / "raft.state"
    filled(tmp_path)
    earlier = raft_pb2.RaftHardState(cluster_id="c", controller_id=ME, term=3, incarnation=5)
    replace_file(files, path, seal(earlier.SerializeToString()))
    state = open_at(tmp_path, bootstrap=True, peers=peers(2, 3)).hard_state.state
    assert (state.rejoin_nonce, state.may_found, state.originals) == (0, False, {})
    with pytest.raises(InconsistentClusterIdError):
        open_at(tmp_path)
