"""Ctrl-C and SIGTERM end a command at once, also in a long call into a library that does not look at signals."""

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """While entered, SIGTERM raises KeyboardInterrupt as Ctrl-C does (see `signal_of`)."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number))

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def signal_of(error: BaseException) -> signal.Signals:
    """The signal that a KeyboardInterrupt came from; a command that it ends has the exit status 128 + this."""
    return error.args[0] if error.args and isinstance(error.args[0], signal.Signals) else signal.SIGINT


class _StoppedError(Exception):
    """Ends the input of a call whose result nobody waits for any more."""


def consume(function: Callable[[Iterator[T]], None], items: Iterable[T]) -> None:
    """Call `function(iter(items))` on a thread of its own, and wait for it where signals are seen.

    Python's signal handlers run between instructions of the main thread, and a library that computes for hours in
    native code executes none. What a handler raises (KeyboardInterrupt) comes out of here at once; the call is left to
    end in the background, or with the process.

    Raises:
      Exception: what `function` raises, or what `items` does.
    """
    left, finished = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def until_left() -> Iterator[T]:
        for item in items:
            if left.is_set():
                raise _StoppedError
            yield item

    def call() -> None:
        try:
            function(until_left())
        except BaseException as error:  # whatever it is, it is raised where the result is waited for
            errors.append(error)
        finally:
            finished.set()

    threading.Thread(target=call, name="tokenizer-training", daemon=True).start()
    try:
        finished.wait()
    except BaseException as error:
        left.set()
        atexit.register(_leave, finished, 128 + signal_of(error))
        raise
    if errors:
        raise errors[0]


def _leave(finished: threading.Event, status: int) -> None:
    """End the process at once if the call still runs: Python's own way out ends threads so that Rust aborts."""
    if not finished.is_set():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
