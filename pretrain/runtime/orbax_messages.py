"""Messages of Orbax that repeat an error which it also raises."""

import logging
import re
import sys
import warnings

SAID_BY_ORBAX = re.compile(
    r"Failed to run .* Commit operations|Save Finalize thread .* failed|_SignalingThread.run\(\) raised|"
    r"Failed to write metadata=|Failed to json parse Metadata file"
)
"""How Orbax logs, with a traceback for each of its threads, what it also raises or what does no harm."""


def _is_new(record: logging.LogRecord) -> bool:
    """Whether a message tells more than the error that comes with it."""
    return not SAID_BY_ORBAX.search(record.getMessage())


def leave_out() -> None:
    """Leave out these messages, and Python's of writes that Orbax has not begun, or whose event loop it has closed."""
    logging.getLogger("absl").addFilter(_is_new)
    warnings.filterwarnings("ignore", "coroutine 'async_serialize_from_host", RuntimeWarning)
    said = sys.unraisablehook
    if getattr(said, "passes_over_closed_loops", False):
        return

    def say(unraisable: "sys.UnraisableHookArgs") -> None:
        if not (
            isinstance(unraisable.exc_value, RuntimeError)
            and "Event loop is closed" in str(unraisable.exc_value)
        ):
            said(unraisable)

    say.passes_over_closed_loops = True  # type: ignore[attr-defined]
    sys.unraisablehook = say
