"""Ctrl-C, SIGTERM and SIGHUP end a command at once, even during a long call into a library that ignores signals.

A handler's exception can be lost: Python runs handlers between any two instructions of the main thread, also inside a
destructor or a callback of the garbage collector, which pass over exceptions. So a handler notes its signal besides,
and code that can end asks for it at places of its own: `raise_noted`. Where the exception would be lost for certain,
none is raised. Where it is lost all the same (in the callback of a weak reference), its traceback is not printed.
"""

import atexit
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")


ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that end a command; SIGHUP comes when the connection to a terminal breaks."""

_noted: list[signal.Signals] = []
"""The signals that have come in the context at hand."""
_broken_off: list[signal.Signals | None] = []
"""The signals that have broken off a call of this command, which may still run in native code; None: see
`leave_running`."""


def heeded() -> tuple[signal.Signals, ...]:
    """Those of `ENDING` that this process was not told to ignore, as nohup tells it of SIGHUP."""
    return tuple(number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN)


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Within this context, SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does (see `signal_of`)."""

    def stop(number: int, frame: FrameType | None) -> None:
        _noted.append(signal.Signals(number))
        _broken_off.append(signal.Signals(number))
        if not _passes_over_exceptions(frame):
            raise KeyboardInterrupt(signal.Signals(number))

    def leave_out(lost: "sys.UnraisableHookArgs") -> None:
        if not (_noted and isinstance(lost.exc_value, KeyboardInterrupt)):
            show(lost)

    show, sys.unraisablehook = sys.unraisablehook, leave_out
    previous = {number: signal.signal(number, stop) for number in heeded()}
    try:
        yield
    finally:
        if sys.unraisablehook is leave_out:
            sys.unraisablehook = show
        for number, handler in previous.items():
            signal.signal(number, handler)
        _noted.clear()


def _passes_over_exceptions(frame: FrameType | None) -> bool:
    """Whether a frame is part of a destructor or of a callback of the garbage collector."""
    callbacks = [getattr(callback, "__code__", None) for callback in gc.callbacks]
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code in callbacks:
            return True
        frame = frame.f_back
    return False


def noted() -> signal.Signals | None:
    """The first signal that has come in the context of `sigterm_as_ctrl_c`, whether its exception was lost or not."""
    return _noted[0] if _noted else None


def begin() -> None:
    """Begin a command: no signal has come yet."""
    _broken_off.clear()


def leave_running() -> None:
    """Note that a thread is at work at the end of the command, for which the process does not wait."""
    _broken_off.append(None)


def broke_off() -> bool:
    """Whether a signal has broken off a call since `begin`, or a thread is left at work.

    The process must then end by `os._exit`. XLA's compiler, for one, goes on in a thread of its own. A normal exit
    would take its memory away, and the process would end with a segmentation fault.
    """
    return bool(_broken_off)


def raise_noted() -> None:
    """Raise the KeyboardInterrupt of a signal that has come, if its exception was lost.

    Raises:
      KeyboardInterrupt: one has come.
    """
    if _noted:
        raise KeyboardInterrupt(_noted[0])


def signal_of(error: BaseException) -> signal.Signals:
    """The signal behind a KeyboardInterrupt; a command that it ends exits with status 128 + its number."""
    return error.args[0] if error.args and isinstance(error.args[0], signal.Signals) else signal.SIGINT


class _StoppedError(Exception):
    """Ends the input of a call when nobody waits for its result any more."""


def consume(function: Callable[[Iterator[T]], None], items: Iterable[T]) -> None:
    """Call `function(iter(items))` on a thread of its own; the calling thread waits and still handles signals.

    Python runs signal handlers between instructions of the main thread. A library that computes for hours in native
    code executes no such instruction. Here the main thread only waits, so a handler's KeyboardInterrupt leaves this
    function at once. The call then ends in the background, or with the process.

    Args:
      function: the long call; it reads the iterator that it gets.
      items: the input of the call.

    Raises:
      Exception: whatever `function` or `items` raises.
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
        except BaseException as error:  # raised again on the waiting thread, whatever it is
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
    """End the process at once if the call still runs: at a normal exit Python ends threads, and Rust aborts then."""
    if not finished.is_set():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
