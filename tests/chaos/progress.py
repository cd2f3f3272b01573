"""What the clients have achieved so far, read from their histories while these grow."""

from pathlib import Path

from tests.chaos.history import Phase, Poll, Send, decode_event


class Progress:
    """A look at all histories of a directory.

    Attributes:
        acknowledged_ns: (producer, partition) to when the last acknowledgement came.
        reached: (process, partition) to the offset after the last record handed out.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read_bytes: dict[Path, int] = {}
        self.acknowledged_ns: dict[tuple[str, int], int] = {}
        self.reached: dict[tuple[str, int], int] = {}

    def update(self) -> None:
        """Read what was added since."""
        for path in self._directory.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read_bytes.get(path, 0))
                added = file.read()
            whole_bytes = added.rfind(b"\n") + 1
            self._read_bytes[path] = self._read_bytes.get(path, 0) + whole_bytes
            for line in added[:whole_bytes].splitlines():
                self._take(line)

    def _take(self, line: bytes) -> None:
        match decode_event(line):
            case Send(phase=Phase.OK, process=process, partition=partition, at_ns=at_ns):
                self.acknowledged_ns[process, partition] = at_ns
            case Poll(process=process, partition=partition, offsets=offsets):
                self.reached[process, partition] = offsets[-1] + 1
