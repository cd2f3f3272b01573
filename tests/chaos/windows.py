"""How long each partition acknowledged nothing to a producer, fault by fault. Pure.

Each producer for itself: one that goes on would hide another that does not know where to.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from tests.chaos.anomalies import Anomaly
from tests.chaos.history import Event, Fault, Phase, Send


@dataclass(slots=True)
class Window:
    """From a fault's beginning until the next one's.

    Attributes:
        kind: The fault's; empty before the first.
        began_ns: On the history's clock.
        detail: What exactly was done.
        acknowledged: Records acknowledged in it.
        gap_s: The longest time between two acknowledgements of one partition to one producer, of
            those gaps that ended in it.
        anomalies: What could be noticed in it.
    """

    kind: str
    began_ns: int
    detail: str = ""
    acknowledged: int = 0
    gap_s: float = 0.0
    anomalies: list[Anomaly] | None = None


def windows(events: Iterable[Event]) -> list[Window]:
    """Divide a history by its faults; the first window is the time before them."""
    found = [Window("", 0)]
    last_ns: dict[tuple[str, int], int] = {}
    for event in events:
        match event:
            case Fault(phase=Phase.INVOKE):
                found.append(Window(event.kind, event.at_ns))
            case Fault():
                found[-1].detail = event.detail
            case Send(phase=Phase.OK):
                window, whose = found[-1], (event.process, event.partition)
                window.acknowledged += len(event.values)
                before_ns = last_ns.get(whose, event.at_ns)
                window.gap_s = max(window.gap_s, (event.at_ns - before_ns) / 1e9)
                last_ns[whose] = event.at_ns
            case _:
                pass
    return found


def attribute(found: list[Window], anomalies: Iterable[Anomaly]) -> None:
    """Give each anomaly to the window in which it could be noticed."""
    for window in found:
        window.anomalies = []
    for anomaly in anomalies:
        home = next(each for each in reversed(found) if each.began_ns <= anomaly.at_ns)
        assert home.anomalies is not None
        home.anomalies.append(anomaly)
