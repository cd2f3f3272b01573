"""The pytest plugin. Loaded by every pytest run where Odradek is installed, so it imports nothing.

Invariant: importing this module costs neither gRPC nor the server; fixtures import when used.
"""

from __future__ import annotations

import re
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from odradek.testing.cluster import SmallCluster


class NewTopic(Protocol):
    """What the fixture `odradek_topic` gives: a function that makes a topic."""

    def __call__(self, *, partitions: int = 1, config: dict[str, str] | None = None) -> str:
        """Create a topic and return its name."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the cluster's size."""
    parser.addini("odradek_nodes", "How many nodes `odradek_cluster` has.", default="1")
    parser.addini(
        "odradek_controllers", "How many controllers `odradek_cluster` has: 1, 3 or 5.", default="1"
    )


@pytest.fixture(scope="session")
def odradek_cluster(pytestconfig: pytest.Config) -> Iterator[SmallCluster]:
    """A real cluster, started at its first use and ended with the session."""
    from odradek.client.local.cluster import LocalProcessError  # noqa: PLC0415  (see the module)
    from odradek.testing.cluster import SmallCluster  # noqa: PLC0415

    cluster = SmallCluster(
        nodes=int(pytestconfig.getini("odradek_nodes")),
        controllers=int(pytestconfig.getini("odradek_controllers")),
    )
    try:
        cluster.start()
    except LocalProcessError as error:
        pytest.fail(f"odradek_cluster: {error}", pytrace=False)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def odradek_bootstrap(odradek_cluster: SmallCluster) -> str:
    """The address of a real cluster, as `Client` wants it."""
    return odradek_cluster.bootstrap


@pytest.fixture
def odradek_topic(odradek_bootstrap: str, request: pytest.FixtureRequest) -> Iterator[NewTopic]:
    """A function that makes topics of unique names; those left are deleted after the test."""
    from odradek.client.blocking import Client  # noqa: PLC0415  (see the module)
    from odradek.protocol.errors import UnknownTopicOrPartitionError  # noqa: PLC0415

    # A test's name may hold what a topic's may not.
    test = re.sub(r"[^a-zA-Z0-9_]+", "-", request.node.name)[:60]
    made: list[str] = []
    with Client(odradek_bootstrap) as client:

        def new_topic(*, partitions: int = 1, config: dict[str, str] | None = None) -> str:
            name = f"{test}-{uuid.uuid4().hex[:12]}"
            client.admin.create_topic(name, partitions=partitions, config=config or {})
            made.append(name)
            return name

        yield new_topic
        for name in made:
            with suppress(UnknownTopicOrPartitionError):  # the test has deleted it
                client.admin.delete_topic(name)
