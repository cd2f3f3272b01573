"""A local cluster for synchronous tests: the asyncio one, run by a thread of its own.

The thread lives as long as the cluster: the kernel ends a child when the *thread* that started it
dies (prctl(2), PR_SET_PDEATHSIG).
"""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from odradek.client.local.cluster import LocalCluster

T = TypeVar("T")


class SmallCluster:
    """Controllers and nodes as processes; every method returns once its effect is complete.

    Args:
        nodes: How many nodes.
        controllers: How many controllers: 1, 3 or 5.
    """

    def __init__(self, *, nodes: int = 1, controllers: int = 1) -> None:
        self._cluster = LocalCluster(nodes=nodes, controllers=controllers)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="odradek-cluster", daemon=True)

    @property
    def bootstrap(self) -> str:
        """The addresses of all nodes, as `Client` wants them."""
        return self._cluster.bootstrap

    def start(self) -> None:
        """Start every process and wait until every node serves.

        Raises:
            LocalProcessError: One did not start; holds the tail of its log.
        """
        self._thread.start()
        try:
            self._run(self._cluster.__aenter__())
        except BaseException:
            self._end_thread()
            raise

    def close(self) -> None:
        """End every process and remove the data."""
        try:
            self._run(self._cluster.__aexit__(None, None, None))
        finally:
            self._end_thread()

    def kill_node(self, node_id: int) -> None:
        """Kill a node (SIGKILL), as a crash would."""
        self._run(self._cluster.nodes[node_id].kill())

    def stop_node(self, node_id: int) -> None:
        """Stop a node cleanly (SIGTERM)."""
        self._run(self._cluster.nodes[node_id].stop())

    def start_node(self, node_id: int) -> None:
        """Start a node that was stopped or killed; return once it serves."""
        self._run(self._cluster.start_node(node_id))

    def pause_node(self, node_id: int) -> None:
        """Let a node hang (SIGSTOP): alive and silent."""
        self._cluster.nodes[node_id].pause()

    def resume_node(self, node_id: int) -> None:
        """Let a paused node go on."""
        self._cluster.nodes[node_id].resume()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
