"""The fixtures that a service's tests use, used as a service's tests use them."""

import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from odradek.client import Client, serdes
from odradek.client.blocking import Client as BlockingClient
from odradek.testing.cluster import SmallCluster
from odradek.testing.plugin import NewTopic


@pytest.mark.cluster
async def test_a_service_s_asynchronous_test(
    odradek_bootstrap: str, odradek_topic: NewTopic
) -> None:
    topic = odradek_topic(partitions=3, config={"flush": "os"})
    async with Client(odradek_bootstrap) as client:
        assert len((await client.admin.describe_topic(topic)).partitions) == 3
        async with client.producer(value=serdes.string) as producer:
            await producer.send(topic, "hello")
        async with client.consumer(topic, group="service", value=serdes.string) as consumer:
            assert (await anext(consumer)).value == "hello"


@pytest.mark.cluster
def test_a_service_s_synchronous_test(
    odradek_cluster: SmallCluster, odradek_topic: NewTopic
) -> None:
    topic = odradek_topic()
    with BlockingClient(odradek_cluster.bootstrap) as client:
        with client.producer(value=serdes.string) as producer:
            assert producer.send(topic, "before").offset == 0
            odradek_cluster.kill_node(1)
            odradek_cluster.start_node(1)
            assert producer.send(topic, "after").offset == 1
        with client.consumer(topic, group="service", value=serdes.string) as consumer:
            assert [record.value for record in islice(consumer, 2)] == ["before", "after"]


@pytest.mark.cluster
@pytest.mark.parametrize("case", ["a name [no topic] may have: ü"])
def test_a_test_may_delete_its_topic(
    odradek_bootstrap: str, odradek_topic: NewTopic, case: str
) -> None:
    with BlockingClient(odradek_bootstrap) as client:
        client.admin.delete_topic(odradek_topic())
        assert case


@pytest.mark.cluster
def test_topics_do_not_outlive_their_test(odradek_bootstrap: str) -> None:
    with BlockingClient(odradek_bootstrap) as client:
        assert [topic.name for topic in client.admin.list_topics() if "test" in topic.name] == []


def test_every_pytest_run_loads_the_plugin_at_no_cost() -> None:
    look = (
        "import sys, pytest; before = set(sys.modules); import odradek.testing.plugin;"
        "print(sorted(name for name in set(sys.modules) - before))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", look], capture_output=True, text=True, timeout=30, check=True
    )
    assert loaded.stdout.strip() == "['odradek', 'odradek.testing', 'odradek.testing.plugin']"


def test_without_the_server_the_fixture_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import odradek.client.local.cluster as local\nlocal.find_spec = lambda name: None\n"
    )
    (tmp_path / "test_it.py").write_text("def test_it(odradek_bootstrap): pass\n")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    assert "pip install 'odradek[server]'" in run.stdout
    assert "Traceback" not in run.stdout
