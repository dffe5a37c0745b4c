"""Goodput: the share of a run's wall-clock time that went into steps that count, over all calls of the run.

Terms are those of ML Productivity Goodput (Google Cloud, 2024) and its library ml-goodput-measurement. Goodput here is
its *runtime goodput*: the time of preserved progress, divided by the time for which the run had its devices. All other
time is badput, by category. The time between two calls is down time; it is shown apart, and is part of neither.

The account of a run is in WORKDIR/goodput.json. The first process writes it when a call has compiled its step, at each
log, at each save and at the end.
"""

import contextlib
import json
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from base import formatting
from base.storage import is_remote, write_text
from pretrain.runtime.optional_outputs import attempt

logger = logging.getLogger(__name__)

FILE_NAME = "goodput.json"
REWRITE_SECONDS = 60.0
"""In a bucket, a log writes the file only if it was written so long ago; a save and the end always do."""
CLOSE_SECONDS = 10.0
"""How long the end waits for the devices, which are still at work only if the run has failed."""

BADPUT = {
    "start": "start",
    "restore": "restore",
    "compile": "compile",
    "data": "data",
    "evaluation": "evaluation",
    "save": "saving",
    "lost": "lost steps",
    "skipped": "skipped steps",
    "other": "other",
}
"""Categories of time beside "step", and what the line at the end of a run calls them."""
CATEGORIES = ("step", *BADPUT)

_process_began: list[float] = []
"""The clock's time at which this process began, until an account has taken it."""


def count_from_process_start() -> None:
    """Have the next account begin with this process: its imports and its joining others belong to the run's start."""
    _process_began[:] = [time.monotonic() - _process_age()]


def _process_age() -> float:
    """Seconds since this process began; 0 where the system does not tell, as Linux does."""
    try:
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        began = int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # field 22 of proc(5): ticks after boot
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


@dataclass
class Spent:
    """What a run has spent, in seconds."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CATEGORIES, 0.0))
    """By category, without the time between calls."""
    down: float = 0.0
    """Between calls."""
    calls: int = 1
    begin: int = 0
    """The step at which the account began: 0, but for runs that are older than their account."""
    step: int = 0
    """The last step of the account."""
    marks: dict[int, float] = field(default_factory=dict)
    """The seconds["step"] of the steps up to each checkpoint."""

    @property
    def total(self) -> float:
        """The wall time of all calls."""
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float:
        """The share of the wall time that went into steps that count."""
        return self.seconds["step"] / self.total if self.total else 0.0

    def go_back(self, step: int) -> None:
        """Count the steps after `step` as lost, because the run makes them again."""
        known = {self.begin: 0.0, **self.marks, self.step: self.seconds["step"]}
        steps = sorted(known)
        kept = float(np.interp(step, steps, [known[each] for each in steps]))
        self.seconds["lost"] += self.seconds["step"] - kept
        self.seconds["step"] = kept
        self.marks = {each: seconds for each, seconds in self.marks.items() if each <= step}
        self.step = step

    def add(self, earlier: "Spent", down: float) -> None:
        """Add the account of earlier calls, which ended `down` seconds before this one began."""
        for category, seconds in earlier.seconds.items():
            self.seconds[category] += seconds
        self.down += earlier.down + down
        self.calls += earlier.calls
        self.begin, self.step, self.marks = earlier.begin, earlier.step, dict(earlier.marks)

    def line(self) -> str:
        """The account in one line; categories come by size, and those below 0.05% are left out."""
        shares = {name: self.seconds[category] / (self.total or 1.0) for category, name in BADPUT.items()}
        parts = [
            f"{name} {formatting.percent(share)}"
            for name, share in sorted(shares.items(), key=lambda item: -item[1])
            if share >= 0.0005
        ]
        line = f"goodput {formatting.percent(self.goodput)} of {formatting.duration(self.total)}"
        line += f": {', '.join(parts)}" if parts else ""
        between = f"; down for {formatting.duration(self.down)} between {self.calls} calls"
        return line + (between if self.down >= 0.5 else "")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "goodput": round(self.goodput, 6),
            "seconds": {category: round(seconds, 6) for category, seconds in self.seconds.items()},
            "down": round(self.down, 6),
            "calls": self.calls,
            "begin": self.begin,
            "step": self.step,
            "marks": {str(step): round(seconds, 6) for step, seconds in self.marks.items()},
        }


def read(path: epath.Path) -> tuple[Spent, float] | None:
    """The account in a file, and the time (in seconds since 1970) at which it was written.

    Returns:
      None where there is no file, or with a warning, where it is damaged.
    """
    try:
        if not path.exists():
            return None
        content = json.loads(path.read_text())
        seconds = {category: _amount(content["seconds"][category]) for category in CATEGORIES}
        marks = {_number(int(step)): _amount(value) for step, value in content["marks"].items()}
        steps = {name: _number(content[name]) for name in ("calls", "begin", "step")}
        return Spent(seconds, _amount(content["down"]), marks=marks, **steps), _amount(content["written"])
    except Exception as error:  # damage shows itself as errors of many kinds
        flaw = f"{type(error).__name__}: {error}"
        logger.warning("%s cannot be read (%s); the account of the run's time begins anew", path, flaw)
        return None


def _amount(value: Any) -> float:
    """A number of seconds.

    Raises:
      ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is not a number of seconds")
    return float(value)


def _number(value: Any) -> int:
    """A count.

    Raises:
      ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


class Account:
    """Counts the time of one call by category, and adds it to that of the earlier calls.

    One clock is switched from category to category, so that the categories sum to the wall time. While the devices work
    on a step, all time is the step's, whatever the host does meanwhile: a wait for data costs only what it keeps the
    devices waiting. A thread waits for each step, to know when the devices have nothing to do.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time):
        """Begin a call, in the category "start".

        Args:
          clock: seconds that only grow.
          now: seconds since 1970.
        """
        self._clock, self._now = clock, now
        self._since = _process_began.pop() if _process_began else clock()
        self._began = now() - (clock() - self._since)
        self._category = "start"
        self._dispatched = self._finished = 0
        self._spent, self._logged = Spent(), 0.0
        self._file: epath.Path | None = None
        self._written = -math.inf
        self._lock = threading.Lock()
        self._steps: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def spending(self, category: str) -> Iterator[None]:
        """Count what happens inside to a category; a category inside another takes its place until it ends."""
        with self._lock:
            self._count()
            outer, self._category = self._category, category if category in CATEGORIES else "other"
        try:
            yield
        finally:
            with self._lock:
                self._count()
                has_started = category == "step" and outer == "start"
                self._category = "other" if has_started else outer

    def dispatched(self, metrics: Mapping[str, Any]) -> None:
        """Note that the devices work on a step until its metrics are ready."""
        with self._lock:
            self._count()
            self._dispatched += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, name="goodput", daemon=True)
            self._thread.start()
        self._steps.put(metrics)

    def keep(self, workdir: epath.Path, step: int) -> None:
        """Keep the account in a workdir from `step` on, each time that the run's files are opened.

        At first it adds what is there of earlier calls. What the account has of steps after `step` is lost.
        """
        if self._file is None:
            self._file = workdir / FILE_NAME
            earlier = read(self._file)
            with self._lock:
                if earlier is None:
                    self._spent.begin = self._spent.step = step
                else:
                    self._spent.add(earlier[0], max(0.0, self._began - earlier[1]))
        self.go_back(step)
        self._write()

    def go_back(self, step: int) -> None:
        """Count the steps after `step` as lost, because the run makes them again."""
        with self._lock:
            self._count()
            self._spent.go_back(step)
            self._logged = self._spent.seconds["step"]

    def log(self, step: int, *, skipped: float = 0.0) -> float:
        """Take a log of the metrics; returns the goodput.

        Args:
          step: the step that is logged.
          skipped: the share of the steps since the last log that were skipped.
        """
        with self._lock:
            self._count()
            seconds = self._spent.seconds
            left_out = skipped * (seconds["step"] - self._logged)
            seconds["step"] -= left_out
            seconds["skipped"] += left_out
            self._logged, self._spent.step = seconds["step"], step
            goodput = self._spent.goodput
        self._write(REWRITE_SECONDS)
        return goodput

    def saved(self, step: int, kept: Collection[int]) -> None:
        """Note the checkpoint of a step; `kept` are the steps that have one."""
        with self._lock:
            self._count()
            self._spent.step = step
            marks = {**self._spent.marks, step: self._spent.seconds["step"]}
            self._spent.marks = {each: seconds for each, seconds in marks.items() if each in kept}
        self._write()

    def end(self) -> str:
        """Write the account; returns its line."""
        with self._lock:
            self._count()
        self._write()
        return self._spent.line()

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._steps.put(None)
            self._thread.join(CLOSE_SECONDS)

    def _count(self) -> None:
        """Count the time since the last call; the lock is held."""
        now = self._clock()
        is_busy = self._dispatched > self._finished
        self._spent.seconds["step" if is_busy else self._category] += now - self._since
        self._since = now

    def _follow(self) -> None:
        while (metrics := self._steps.get()) is not None:
            with contextlib.suppress(Exception):  # the loop raises it when it reads the metrics
                jax.block_until_ready(metrics)
            del metrics
            with self._lock:
                self._count()
                self._finished += 1

    def _write(self, least_age: float = 0.0) -> None:
        """Write the file; in a bucket, only if it is older than `least_age` seconds."""
        if self._file is None or (is_remote(self._file) and self._clock() - self._written < least_age):
            return
        self._written = self._clock()
        with self._lock:
            content = {**self._spent.as_dict(), "written": round(self._now(), 6)}
        attempt(FILE_NAME, write_text, self._file, json.dumps(content, indent=2) + "\n")
