"""How far the training of a tokenizer is: a live line in a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from base import terminal

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_UPDATES = 0.1


class TrainingProgress:
    """Counts documents and bytes as they are read, and says on stderr which stage training is in."""

    def __init__(self, *, shown: bool, console: Console | None = None) -> None:
        """Start at zero. If `shown` is False, documents are counted and nothing is printed."""
        self.documents = 0
        self.bytes = 0
        self.looked_at = 0
        self._console = console or terminal.console(stderr=True)
        self._live: Progress | None = None
        self._lines = shown and not self._console.is_terminal
        if shown and self._console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            self._live = Progress(*columns, console=self._console, refresh_per_second=4)
            self._task = self._live.add_task("tokenizer: reading")
        self._started = self._reported = time.monotonic()

    def read(self, size: int) -> None:
        """Count one document of `size` bytes."""
        self.documents += 1
        self.bytes += size
        self._show(self._reading)

    def look(self) -> None:
        """Count one document that a sample is drawn from; the documents of the sample are then read."""
        self.looked_at += 1
        self._show(lambda: f"tokenizer: drawing a sample, {self.looked_at:,} documents looked at")

    def merge(self) -> None:
        """Report that all documents are read. The search for merges follows; it reports no progress."""
        description = f"{self._reading()}; merging"
        if self._live:
            self._live.update(self._task, description=description)
        elif self._lines:
            self._console.print(description, highlight=False)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        if self._lines and kind is None:
            self._console.print(
                f"tokenizer: trained in {time.monotonic() - self._started:.1f} s", highlight=False
            )

    def _show(self, told: Callable[[], str]) -> None:
        """Show where training is, not more often than it can be read."""
        now = time.monotonic()
        if self._live and now - self._reported >= SECONDS_BETWEEN_UPDATES:
            self._live.update(self._task, description=told())
        elif self._lines and now - self._reported >= SECONDS_BETWEEN_LINES:
            self._console.print(told(), highlight=False)
        else:
            return
        self._reported = now

    def _reading(self) -> str:
        return f"tokenizer: {self.documents:,} documents read, {self.bytes / 1e6:,.1f} MB"
