"""SIGTERM and Ctrl-C: ask the loop to stop after the step at hand."""

import signal
from types import FrameType, TracebackType
from typing import Self


class Interruption:
    """While entered, SIGTERM and SIGINT set `requested` instead of ending the process.

    A second signal changes nothing: the checkpoint being written is finished first.
    """

    def __init__(self) -> None:
        self.requested: str = ""
        self._previous: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        """Take over both signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give both signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = signal.Signals(number).name
