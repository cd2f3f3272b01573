"""A replica that goes drops its data: nothing it acknowledged before may count when it returns."""

from tests.controller.state.test_reassignment import Moving


def test_a_replica_that_goes_ends_the_leader_epoch() -> None:
    """A leader that sees both steps at once would propose the empty replica as in sync."""
    cluster = Moving(1, 2)
    cluster.move(1, 3)
    before = cluster.partition
    cluster.join(3)
    cluster.expect((1, 3), (1, 3))
    gone = cluster.partition
    assert (gone.leader, gone.leader_epoch) == (1, before.leader_epoch + 1)
    cluster.move(1, 3, 2)
    assert cluster.partition.leader_epoch == gone.leader_epoch, "nobody went"


def test_a_move_taken_back_ends_the_leader_epoch() -> None:
    cluster = Moving(1, 2)
    cluster.move(1, 3)
    before = cluster.partition
    cluster.move()
    cluster.expect((1, 2), (1, 2))
    assert cluster.partition.leader_epoch == before.leader_epoch + 1
