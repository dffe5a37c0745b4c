"""The progress of a run: one live line in a terminal, or else a plain line for each log interval; never both."""

import logging
import math
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich import progress as rich_progress
from rich.console import Console

from base import formatting, terminal
from pretrain.objective.token_frequencies import FREQUENCY_LOSS

COLUMNS = 80
LEAST_PADDING = 0.01
"""Share of padding from which on it is shown."""
WINDOW = 256  # number of updates over which the speed is averaged, for the remaining time


class Progress:
    """A display of the step, the loss, the speed and the remaining time.

    In a terminal, one line is redrawn in place, and evaluations and messages appear above it. In a pipe or a log file,
    each logged interval is a line of at most 80 columns; the padding and the goodput are in it where there is room.
    """

    def __init__(self, total_steps: int, *, start_step: int = 0, console: Console | None = None):
        """Show a run of `total_steps` that starts or resumes at `start_step`; `console` is stdout by default."""
        self._total, self._step = total_steps, start_step
        self._console = console or terminal.console()
        self._times: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self._live: rich_progress.Progress | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = rich_progress.Progress(
                rich_progress.BarColumn(bar_width=16),
                rich_progress.TextColumn("{task.description}"),
                console=self._console,
                refresh_per_second=4,
            )
            self._task = self._live.add_task("starting", total=total_steps, completed=start_step)
        self._speed = ""
        self._is_broken = False
        # Log records would break the live line. So while it is shown, handlers write to rich's stderr, above the line.
        self._redirected: list[tuple[logging.StreamHandler[Any], Any]] = []

    def update(self, step: int, *, loss: float) -> None:
        """Show the number of finished steps, and the loss of the last one in nats per predicted token."""
        self._times.append((time.monotonic(), step))
        self._step = step
        if self._live is not None:
            parts = [f"{step}/{self._total}", f"loss {loss:.3f}", self._speed, f"eta {self._time_left()}"]
            self._live.update(self._task, completed=step, description="  ".join(filter(None, parts)))

    def leave_out(self, seconds: float) -> None:
        """Exclude the last `seconds` from the speed, because they do not repeat: a compilation."""
        self._times = deque(((at + seconds, step) for at, step in self._times), maxlen=WINDOW)

    def restart(self) -> None:
        """Forget the speed so far, because steps of another kind follow."""
        self._times.clear()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Show the metrics of a step: train/* as the state of the run, other metrics on a line of their own."""
        if "train/loss" not in values:
            self.message(_evaluation_line(step, values))
            return
        self._speed = _speed(values)
        if self._live is None:
            self.message(self._training_line(step, values))

    def message(self, text: str) -> None:
        """Print a line; it appears above the live line if there is one.

        If it cannot be printed, its reader is gone or the disk of a log file is full: the run is told as by a
        connection that drops (SIGHUP), saves itself, and ends.
        """
        if self._is_broken:
            return
        try:
            shown = formatting.visible(text)
            self._console.print(shown, highlight=False, markup=False, emoji=False, soft_wrap=True)
        except (OSError, SystemExit):  # rich makes a broken pipe an exit
            self._is_broken = True
            os.kill(os.getpid(), signal.SIGHUP)

    def __enter__(self) -> Self:
        if self._live is not None:
            before = (sys.stdout, sys.stderr)
            self._live.start()
            for handler in logging.getLogger().handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream in before:
                    self._redirected.append((handler, handler.stream))
                    handler.setStream(sys.stderr)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for handler, stream in self._redirected:
            handler.setStream(stream)
        self._redirected.clear()
        if self._live is not None:
            self._live.stop()

    def _time_left(self) -> str:
        if len(self._times) < 2:
            return "?"
        (first, first_step), (last, last_step) = self._times[0], self._times[-1]
        rate = (last - first) / max(1, last_step - first_step)
        return formatting.duration(rate * (self._total - self._step))

    def _training_line(self, step: int, values: Mapping[str, float]) -> str:
        width = len(str(self._total))
        parts = [f"step {step:>{width}}/{self._total}", f"loss {values['train/loss']:.3f}"]
        if "train/accuracy" in values:
            parts.append(f"acc {formatting.percent(values['train/accuracy'])}")
        parts += [*filter(None, [_speed(values)]), f"eta {self._time_left()}"]
        line = "  ".join(parts)
        for name, least in (("padding", LEAST_PADDING), ("goodput", 0.0)):
            value = values.get(f"train/{name}")
            if value is not None and value >= least:
                longer = f"{line}  {name} {formatting.percent(value, 0)}"
                line = longer if len(longer) <= COLUMNS else line
        return line


def _speed(values: Mapping[str, float]) -> str:
    parts = []
    if "train/tokens_per_second" in values:
        parts.append(f"{formatting.count(values['train/tokens_per_second'])} tok/s")
    if math.isfinite(values.get("train/mfu", math.nan)):
        parts.append(f"mfu {formatting.percent(values['train/mfu'], 0)}")
    return "  ".join(parts)


def _evaluation_line(step: int, values: Mapping[str, float]) -> str:
    parts = []
    frequencies = values.get(FREQUENCY_LOSS)
    for name, value in values.items():
        if frequencies is not None and name in (FREQUENCY_LOSS, "eval/perplexity"):
            continue  # the line has room for one of them
        short = name.rpartition("/")[2]
        is_share = short.endswith("accuracy")
        parts.append(f"{short} {formatting.percent(value) if is_share else f'{value:.4g}'}")
        if frequencies is not None and name == "eval/loss":
            parts[-1] += f" (token frequencies {frequencies:.4g})"
    group = next(iter(values), "").partition("/")[0]
    return "  ".join([f"{group} after step {step}:", *parts])
