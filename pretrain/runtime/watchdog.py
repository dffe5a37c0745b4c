"""A watchdog: ends the process, with the stacks of its threads, when something takes much longer than it ever did.

A run that hangs (a device that does not answer, a file system that is gone, a process that has stopped) would stand
until somebody looks. The loop tells the watchdog what it begins; a thread of the watchdog's own looks at the time.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from pretrain.runtime import processes

FACTOR = 20.0
"""By default an activity may take so many times as long as the slowest of its kind so far."""
LEAST = 600.0
"""Seconds that anything may take by default."""
FIRST = 7200.0
"""Seconds that the first of its kind may take by default: it may have to compile, or to read a whole corpus."""


class Watchdog:
    """Watches one activity at a time."""

    def __init__(self, limit: float, *, end: Callable[[str, str], None] | None = None):
        """Watch from the first activity on.

        Args:
          limit: seconds that an activity may take; 0 takes `FACTOR` times the slowest of its kind, at least `LEAST`;
            below 0 sets no limit.
          end: called with what took too long, and with the process that is late if there are several; by default it
            ends them all.
        """
        self._limit, self._end = limit, end or _end_processes
        self._slowest: dict[str, float] = {}
        self._lock = threading.Lock()
        self._now: tuple[str, str, float, float] | None = None  # kind, name, begin, deadline
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watching(self, kind: str, name: str = "") -> Iterator[None]:
        """Watch what happens inside; an activity inside another takes its place until it ends.

        Args:
          kind: activities of one kind take about the same time.
          name: what it is, for the message; '' is its kind.
        """
        with self._lock:
            outer = self._now
            begin = time.monotonic()
            self._now = (kind, name or kind, begin, begin + self._allowed(kind))
        self._start()
        try:
            with processes.doing(name or kind):
                yield
        finally:
            with self._lock:
                now = time.monotonic()
                self._slowest[kind] = max(self._slowest.get(kind, 0.0), now - begin)
                if outer is not None:  # what was inside does not count for it
                    outer = (*outer[:3], outer[3] + now - begin)
                self._now = outer

    def close(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _allowed(self, kind: str) -> float:
        """Seconds that an activity of a kind may take."""
        if self._limit:
            return self._limit if self._limit > 0 else float("inf")
        return max(LEAST, FACTOR * self._slowest[kind]) if kind in self._slowest else FIRST

    def _start(self) -> None:
        if self._thread is None and self._limit >= 0:
            thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            thread.start()  # a signal may break this off
            self._thread = thread

    def _watch(self) -> None:
        pause = min(1.0, self._limit / 10) if self._limit else 1.0
        while not self._stopped.wait(pause):
            with self._lock:
                now = self._now
            if now is not None and time.monotonic() > now[3]:
                late = processes.late()
                self._end(
                    f"{now[1]} has taken more than {now[3] - now[2]:.3g} s: {late + ': ' if late else ''}"
                    f"the {'run' if late else 'process'} is ended; {processes.AGAIN}, "
                    "with a longer config.time_limit if it only is slow",
                    late,
                )
                return


def _end_processes(message: str, late: str) -> None:
    processes.end_late(f"error: {message}\n", late)
