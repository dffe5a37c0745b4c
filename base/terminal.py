"""The one door to the terminal: every text is shown as it is written, and none of them gives the terminal an order.

Texts from outside (texts of a corpus, names of files, fields and classes, messages of servers) may hold the control
characters by which a terminal is told to clear its screen or to change its title. They are shown as Python's escapes.
"""

import logging
import sys
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from base import formatting


def console(*, stderr: bool = False) -> Console:
    """A rich console on stdout, or on stderr. It never reads a text as markup, as an emoji's name or as an order."""
    return _Console(markup=False, emoji=False, highlight=False, stderr=stderr)


def say(text: str, *, error: bool = False, end: str = "\n") -> None:
    """Print a text at once.

    Args:
      text: the text; it may have several lines.
      error: whether it goes to stderr.
      end: what follows it.
    """
    print(formatting.visible(text), end=end, file=sys.stderr if error else sys.stdout, flush=True)


def pass_on(text: str) -> None:
    """Write a text for another program to stdout, unchanged; for a terminal as `say` does."""
    sys.stdout.flush()
    shown = formatting.visible(text) if sys.stdout.isatty() else text
    sys.stdout.buffer.write(shown.encode())
    sys.stdout.buffer.flush()


class Formatter(logging.Formatter):
    """Formats log records for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record."""
        return formatting.visible(super().format(record))


def guard_logs() -> None:
    """Have warnings that are logged before, or without, a handler of one's own formatted too."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Formatter())


class _Console(Console):
    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of what is shown. Those that hold rich's own orders, such as to move the cursor, say so."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield segment._replace(text=formatting.visible(segment.text))
