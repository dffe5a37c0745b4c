"""A watchdog: ends the process, with the stacks of its threads, when something takes much longer than it ever did.

A run that hangs (a device that does not answer, a file system that is gone, a process that has stopped) would stand
until somebody looks. The loop tells the watchdog what it begins; a thread of the watchdog's own looks at the time.
"""

import contextlib
import faulthandler
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator

from pretrain.runtime import processes

STATUS = 75
"""The exit status of a process that its watchdog has ended: run the same command again (EX_TEMPFAIL)."""
FACTOR = 20.0
"""By default an activity may take so many times as long as the slowest of its kind so far."""
LEAST = 600.0
"""Seconds that anything may take by default."""
FIRST = 7200.0
"""Seconds that the first of its kind may take by default: it may have to compile, or to read a whole corpus."""


class Watchdog:
    """Watches one activity at a time."""

    def __init__(self, limit: float, *, end: Callable[[str], None] | None = None):
        """Watch from the first activity on.

        Args:
          limit: seconds that an activity may take; 0 takes `FACTOR` times the slowest of its kind, at least `LEAST`;
            below 0 sets no limit.
          end: called with what took too long; by default it ends the process.
        """
        self._limit, self._end = limit, end or _end_process
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
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        pause = min(1.0, self._limit / 10) if self._limit else 1.0
        while not self._stopped.wait(pause):
            with self._lock:
                now = self._now
            if now is not None and time.monotonic() > now[3]:
                allowed = now[3] - now[2]
                self._end(
                    f"{now[1]} has taken more than {allowed:.3g} s: the process is ended; run the same command again "
                    "to go on from what is saved, with a longer config.time_limit if it only is slow"
                )
                return


def _end_process(message: str) -> None:
    """Write the stacks of all threads and the message to stderr, and end the process at once."""
    logging.shutdown()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    with contextlib.suppress(Exception):
        faulthandler.dump_traceback(file=2, all_threads=True)
    processes.end_now(STATUS, f"error: {message}\n")
