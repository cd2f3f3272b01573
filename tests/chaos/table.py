# ruff: noqa: T201 - it prints
"""The table of a run: a line per kind of fault."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.chaos.anomalies import AnomalyKind
from tests.chaos.checker import Report
from tests.chaos.windows import Window

_LOST: Final = {AnomalyKind.LOST_WRITE, AnomalyKind.UNSEEN, AnomalyKind.VANISHED}
_DUPLICATED: Final = {AnomalyKind.DUPLICATE}
_EXAMPLES_MAX: Final = 3


@dataclass(slots=True)
class Line:
    """One kind of fault, over the whole run.

    Attributes:
        injected: How often.
        acknowledged: Records acknowledged from its beginning until the next fault.
        lost: Acknowledged records that are gone, or were not read.
        duplicated: Records at two offsets.
        other: All other anomalies.
        gap_s: The longest time without acknowledgement of any partition to any producer.
    """

    injected: int = 0
    acknowledged: int = 0
    lost: int = 0
    duplicated: int = 0
    other: int = 0
    gap_s: float = 0.0

    def add(self, window: Window) -> None:
        """Count a window in."""
        kinds = [anomaly.kind for anomaly in window.anomalies or ()]
        self.injected += 1
        self.acknowledged += window.acknowledged
        self.lost += sum(kind in _LOST for kind in kinds)
        self.duplicated += sum(kind in _DUPLICATED for kind in kinds)
        self.other += sum(kind not in _LOST | _DUPLICATED for kind in kinds)
        self.gap_s = max(self.gap_s, window.gap_s)


def lines(windows: Sequence[Window]) -> dict[str, Line]:
    """Sum windows up by kind, in the order of their names."""
    found: defaultdict[str, Line] = defaultdict(Line)
    for window in windows:
        found[window.kind or "(before the first)"].add(window)
    return dict(sorted(found.items()))


def print_table(windows: Sequence[Window], report: Report) -> None:
    """Print a line per kind of fault, the sums, and some of the anomalies."""
    row = "{:<34} {:>8} {:>12} {:>5} {:>10} {:>6} {:>8}"
    print(row.format("fault", "injected", "acknowledged", "lost", "duplicated", "other", "gap s"))
    for name, line in lines(windows).items():
        numbers = (line.injected, line.acknowledged, line.lost, line.duplicated, line.other)
        print(row.format(name, *numbers, f"{line.gap_s:.2f}"))
    print(
        f"{report.acknowledged} records acknowledged, {report.unknown} of unknown outcome,"
        f" {report.failed} failed; {report.polled} handed out; {len(report.anomalies)} anomalies"
    )
    for kind, count in report.counts.most_common():
        print(f"ANOMALY {kind.value}: {count}")
        examples = [each for each in report.anomalies if each.kind is kind][:_EXAMPLES_MAX]
        for each in examples:
            print(f"  partition {each.partition} at {each.at_ns / 1e9:.3f}: {each.detail}")
