"""Virtual time: what happens next, and to whom.

Everything that happens is a call in one queue ordered by time. A `Process` owns the calls it makes
for later: when it dies they die with it, and while it is paused they wait.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

Call = Callable[[], None]


class Scheduler:
    """The queue and the clock."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._queue: list[tuple[float, int, Call]] = []
        self._order = count()

    def after(self, delay_s: float, call: Call) -> None:
        """Have something happen later; what is due at one time happens in the order asked for."""
        heappush(self._queue, (self.now_s + delay_s, next(self._order), call))

    def run_until(self, end_s: float) -> None:
        """Let everything happen that is due before a time."""
        queue = self._queue
        while queue and queue[0][0] < end_s:
            self.now_s, _, call = heappop(queue)
            call()
        self.now_s = end_s


class Process:
    """Something that runs, hangs, dies and starts again."""

    def __init__(self, name: str, scheduler: Scheduler) -> None:
        self.name = name
        self.scheduler = scheduler
        self.is_up = False
        self.life = 0
        self.paused_until_s = 0.0
        self._held: list[Call] = []

    def __repr__(self) -> str:
        return self.name

    @property
    def now_s(self) -> float:
        """The monotonic clock."""
        return self.scheduler.now_s

    @property
    def is_paused(self) -> bool:
        """Whether it is stopped at the moment, as by SIGSTOP."""
        return self.paused_until_s > self.scheduler.now_s

    @property
    def is_attentive(self) -> bool:
        """Whether it takes at once what comes, having nothing to take before."""
        return not self._held and self.paused_until_s <= self.scheduler.now_s

    def pause(self, duration_s: float) -> None:
        """Stop it as by SIGSTOP, or for longer than it is stopped already."""
        self.paused_until_s = max(self.paused_until_s, self.now_s + duration_s)

    def resume(self) -> None:
        """End a pause early: what came meanwhile is taken in its order."""
        self.paused_until_s = 0.0
        self._wake()

    def when_awake(self, call: Call) -> None:
        """Do something now, or after the pause and what came in it before."""
        if self.is_attentive:
            call()
            return
        if not self._held:
            self.scheduler.after(self.paused_until_s - self.now_s, self._wake)
        self._held.append(call)

    def _wake(self) -> None:
        if self.is_paused:
            self.scheduler.after(self.paused_until_s - self.now_s, self._wake)
            return
        held, self._held = self._held, []
        for call in held:
            self.when_awake(call)

    def start(self) -> None:
        """Begin another life."""
        raise AssertionError("each kind of process starts in its own way")

    def begin_life(self) -> None:
        """Start: calls of earlier lives are void."""
        assert not self.is_up
        self.is_up = True
        self.life += 1
        self.resume()

    def end_life(self) -> None:
        """Die."""
        self.is_up = False
        self.life += 1

    def after(self, delay_s: float, call: Call) -> None:
        """Do something later, if this life still lasts, and not while paused."""
        life = self.life

        def guarded() -> None:
            if self.life != life:
                return
            pause_s = self.paused_until_s - self.scheduler.now_s
            if pause_s > 0:
                self.scheduler.after(pause_s, guarded)
            else:
                call()

        self.scheduler.after(delay_s, guarded)

    def every(self, interval_s: float, call: Call) -> None:
        """Do something again and again while this life lasts, and not while paused."""
        life, scheduler = self.life, self.scheduler

        def again() -> None:
            if self.life != life:
                return
            pause_s = self.paused_until_s - scheduler.now_s
            if pause_s > 0:
                scheduler.after(pause_s, again)
            else:
                call()
                scheduler.after(interval_s, again)

        scheduler.after(interval_s, again)
