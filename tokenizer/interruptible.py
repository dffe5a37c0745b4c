"""A long call into a library that does not look at signals, made so that Ctrl-C still ends the command at once."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

SECONDS_TO_STOP = 5.0
"""How long an interrupted call's input may take to notice, before it is left to the end of the process."""


class _StoppedError(Exception):
    """Ends the input of a call whose result nobody waits for any more."""


class _Stoppable(Generic[T]):
    """Gives what `items` gives until it is told to stop."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = items
        self._asked, self.ended = threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[T]:
        try:
            for item in self._items:
                if self._asked.is_set():
                    raise _StoppedError
                yield item
        finally:
            self.ended.set()

    def stop(self) -> None:
        """Ask for the end, and wait for it a while: a thread that runs Python code when the process ends aborts it."""
        self._asked.set()
        self.ended.wait(SECONDS_TO_STOP)


def consume(function: Callable[[Iterator[T]], None], items: Iterable[T]) -> None:
    """Call `function(iter(items))` on a thread of its own, and wait for it where signals are seen.

    Python's signal handlers run between instructions of the main thread, and a library that computes for hours in
    native code executes none. What a handler raises (KeyboardInterrupt) comes out of here at once; the call goes on in
    the background until its input ends, or the process does.

    Raises:
      Exception: what `function` raises, or what `items` does.
    """
    stoppable, finished = _Stoppable(items), threading.Event()
    errors: list[BaseException] = []

    def call() -> None:
        try:
            function(iter(stoppable))
        except BaseException as error:  # whatever it is, it is raised where the result is waited for
            errors.append(error)
        finally:
            finished.set()

    threading.Thread(target=call, name="tokenizer-training", daemon=True).start()
    try:
        finished.wait()
    except BaseException:
        stoppable.stop()
        raise
    if errors:
        raise errors[0]
