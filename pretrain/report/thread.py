"""The report of a run that trains: written on a thread of its own, so that no step waits for it."""

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from pretrain.report.facts import NothingLoggedError
from pretrain.runtime.optional_outputs import attempt

SHARE = 50
"""After a report, the next one waits for so many times the time that it took: at most 2% of one core."""


class ReportThread:
    """Writes a report now and then. If it fails, a warning is logged, and only the end of the run tries again."""

    def __init__(self, report: Callable[[], None] | None):
        """Write nothing yet; `report` writes the file, None never writes."""
        self._report = report
        self._thread: ThreadPoolExecutor | None = None
        self._last: Future[None] | None = None
        self._next, self._has_failed = 0.0, False
        self.seconds = 0.0
        """What the last report took."""

    def write(self, *, last: bool = False) -> None:
        """Have the report written, unless the last one is at work, was just written, or has failed.

        Before the first metrics are in their file, there is nothing to write. In a bucket they come once a minute.

        Args:
          last: write it in any case, and wait until it is there.
        """
        if self._report is None or (self._has_failed and not last):
            return
        is_busy = self._last is not None and not self._last.done()
        if not last and (is_busy or time.monotonic() < self._next):
            return
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="report")
        self._last = self._thread.submit(self._write)
        if last:
            self._last.result()

    def close(self) -> None:
        """Wait for a report that is at work."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    def _write(self) -> None:
        start = time.monotonic()
        remedy = "the run goes on; the command `report` of its package writes it"
        self._has_failed = not attempt("report.html", self._write_if_logged, remedy=remedy)
        self.seconds = time.monotonic() - start
        self._next = time.monotonic() + SHARE * self.seconds

    def _write_if_logged(self) -> None:
        assert self._report is not None
        with contextlib.suppress(NothingLoggedError):
            self._report()
