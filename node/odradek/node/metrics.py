"""Every metric of a node, declared once.

Counted where things happen, by addition only; nothing here is computed per record.
"""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily

REGISTRY: Final = CollectorRegistry(auto_describe=True)


class Tally:
    """A counter for what happens at every request: an addition, where `Counter` takes a lock.

    Attributes:
        total: So far; only the loop adds to it.
    """

    __slots__ = ("_name", "_text", "total")

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self.total = 0
        REGISTRY.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Tell the registry."""
        yield CounterMetricFamily(self._name, self._text, self.total)


PRODUCED_BYTES: Final = Tally("odradek_produced_bytes", "Bytes of batches appended for producers.")
PRODUCE_REQUESTS: Final = Tally("odradek_produce_requests", "Produce requests received.")
PRODUCE_ERRORS: Final = Counter(
    "odradek_produce_errors",
    "Partitions of produce requests that were refused.",
    ("error",),
    registry=REGISTRY,
)
COMMIT_SECONDS: Final = Histogram(
    "odradek_commit_seconds",
    "From the append of a produce request to its answer.",
    buckets=(0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 1.0),
    registry=REGISTRY,
)
FETCHED_BYTES: Final = Tally("odradek_fetched_bytes", "Bytes of batches pushed to consumers.")
COLD_READS: Final = Counter(
    "odradek_cold_reads", "Reads that missed the tail cache.", registry=REGISTRY
)
PRODUCE_STREAMS: Final = Gauge(
    "odradek_produce_streams", "Produce streams that are open.", registry=REGISTRY
)
FETCH_STREAMS: Final = Gauge(
    "odradek_fetch_streams", "Fetch streams that are open.", registry=REGISTRY
)
PARTITIONS_LED: Final = Gauge(
    "odradek_partitions_led", "Partitions this node leads.", registry=REGISTRY
)
METADATA_VERSION: Final = Gauge(
    "odradek_metadata_version", "The metadata version applied.", registry=REGISTRY
)
FENCED: Final = Gauge("odradek_fenced", "1 while the node may not lead.", registry=REGISTRY)
