"""What each process of a run is doing, told to the others again and again: so that the late one can be named.

Each process writes a record of itself (a beat) under a key of the store of jax's coordination service, every few
seconds. Process 0 reads the records of all, the others read that of process 0: this finds a process that is stopped.
When something takes too long, a process reads the records of all, and `late` finds the one that the others wait for.
"""

import contextlib
import faulthandler
import json
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax

KEY = "unmask/beat"
BEATS = 30
"""Number of beats in the time after which a process without beats is late."""
LEAST_SECONDS = 0.2
"""Shortest time between two beats."""
MOST_BEATS = 3
"""Largest number of beats that count as missed at a time: if it is more, this process itself was stopped."""
QUIET = 5.0
"""Seconds without a beat after which a process is the first to be suspected if something takes too long."""
ANSWER_MS = 5000
"""How long a process waits for the records of the others if something takes too long."""
NAMED = 4
"""Largest number of processes that a message names."""


@dataclass(frozen=True)
class Record:
    """What a process says of itself."""

    begun: int = 0
    """Activities that it has begun or ended. All processes make the same ones in the same order."""
    name: str = "the start"
    """Its activity."""
    seconds: float = 0.0
    """How long this has taken."""
    waits: int | None = None
    """The process whose message it waits for."""
    place: str = ""
    """Where its main thread is."""
    quiet: dict[str, float] = field(default_factory=dict)
    """Of process 0: the processes that have not been heard of for a while, and the seconds since."""
    beat: int = 0
    """A number that changes with every beat."""


class Activity:
    """What this process is doing."""

    def __init__(self) -> None:
        self._begun, self._name, self._since = 0, "the start", time.monotonic()
        self._open = 0
        self._waits: int | None = None

    @contextlib.contextmanager
    def doing(self, name: str) -> Iterator[None]:
        """Say what happens inside; an activity inside another takes its place until it ends."""
        outer = self._name, self._since
        self._begun, self._name, self._since = self._begun + 1, name, time.monotonic()
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            after = f"what comes after {name}", time.monotonic()
            self._begun, (self._name, self._since) = self._begun + 1, outer if self._open else after

    @contextlib.contextmanager
    def waiting(self, process: int) -> Iterator[None]:
        """Say that a message of another process is waited for."""
        self._waits = process
        try:
            yield
        finally:
            self._waits = None

    def record(self) -> Record:
        """What is told to the others."""
        seconds = time.monotonic() - self._since
        return Record(self._begun, self._name, seconds, self._waits, _place())


class Beats:
    """The beats of this process, and what it hears of the others."""

    def __init__(self, client: Any, number: int, count: int, silence: float, activity: Activity):
        """Make no beat yet.

        Args:
          client: jax's client of the store.
          number: this process's.
          count: processes of the run.
          silence: seconds without a beat after which a process is late.
          activity: what this process is doing.
        """
        self._client, self._number, self._count, self._activity = client, number, count, activity
        self._silence, self.every = silence, max(silence / BEATS, LEAST_SECONDS)
        self._suspect = min(QUIET, silence / 2)
        self._made, self._next = 0, 0.0
        others = range(1, count) if number == 0 else range(1)
        self._heard = dict.fromkeys(others, Record(beat=-1))
        self._seconds = dict.fromkeys(others, 0.0)
        self._counted = dict(self._heard)

    @property
    def cut_off(self) -> bool:
        """Whether process 0, which has the store, has not been heard of for a while."""
        return self._number > 0 and self._seconds[0] > self._suspect

    def beat(self) -> None:
        """Tell what this process is doing and hear of the others, where it is time. Waits as long as the store does."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.every
        self._made += 1
        told = {**asdict(self._activity.record()), "beat": self._made, "quiet": self._quiet()}
        self._client.key_value_set(f"{KEY}/{self._number}", json.dumps(told), allow_overwrite=True)
        if self._number == 0:
            self._heard |= {number: each for number, each in self._all().items() if number in self._heard}
        else:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # there is none yet
                self._heard[0] = _read(self._client.key_value_try_get(f"{KEY}/0"))

    def watch(self, stopped: threading.Event, end: Callable[[str], None]) -> None:
        """Call `end` with a message when a process has made no beat for too long; returns when `stopped` is set.

        Time in which this process itself was stopped does not count.
        """
        before = time.monotonic()
        while not stopped.wait(self.every):
            passed, before = time.monotonic() - before, time.monotonic()
            if silent := self.silent(passed):
                end(self._silent(silent))
                return

    def silent(self, passed: float) -> list[int]:
        """The processes that have made no beat for too long, now that `passed` seconds more have gone by."""
        for number, record in list(self._heard.items()):
            same = self._counted[number].beat == record.beat
            self._counted[number] = record
            counted = min(passed, MOST_BEATS * self.every)
            self._seconds[number] = self._seconds[number] + counted if same else 0.0
        return [number for number, seconds in self._seconds.items() if seconds > self._silence]

    def late(self) -> str:
        """The process that the others wait for, in a sentence without a full stop; says also if none can be named."""
        records = {} if self.cut_off else self._answers()
        if not records:
            return self._silent([0])
        records[self._number] = self._activity.record()
        quiet = self._quiet() if self._number == 0 else records.get(0, Record()).quiet
        return late(records, {int(number): seconds for number, seconds in quiet.items()})

    def quiet(self) -> str:
        """The processes that have not been heard of for a while, in a sentence without a full stop; else ''."""
        quiet = [int(number) for number in self._quiet()]
        return self._silent(quiet) if quiet else ""

    def gone(self) -> str:
        """The processes that make no beats any more, in a sentence without a full stop; else ''. Waits for beats."""
        before = self._answers()
        if before:
            time.sleep(MOST_BEATS * self.every)
        after = self._answers()
        same = [
            number for number, each in before.items() if number in after and after[number].beat == each.beat
        ]
        gone = same if after else [0]
        return f"{_names(gone)} of the run {_form(gone, 'is', 'are')} gone" if gone else ""

    def of(self, process: int) -> Record | None:
        """The last record of a process; None where the store does not answer."""
        try:
            return _read(self._client.blocking_key_value_get(f"{KEY}/{process}", ANSWER_MS // 10))
        except jax.errors.JaxRuntimeError:
            return None

    def _quiet(self) -> dict[str, float]:
        return {str(number): seconds for number, seconds in self._seconds.items() if seconds > self._suspect}

    def _all(self) -> dict[int, Record]:
        found = self._client.key_value_dir_get(KEY)
        return {int(key.rpartition("/")[2]): _read(value) for key, value in found}

    def _answers(self) -> dict[int, Record]:
        """The records of all; none where the store does not answer soon."""
        answers: dict[int, Record] = {}

        def ask() -> None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                answers.update(self._all())

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(ANSWER_MS / 1000)
        return answers

    def _silent(self, numbers: Sequence[int]) -> str:
        return _silent({number: self._seconds.get(number, 0.0) for number in numbers}, self._heard)


def late(records: Mapping[int, Record], quiet: Mapping[int, float]) -> str:
    """The process that the others wait for, in a sentence without a full stop.

    Args:
      records: of each process, by number.
      quiet: seconds since a process was heard of, of those that are silent.
    """
    if quiet:
        return _silent(quiet, records)
    waited = {each.waits for each in records.values() if each.waits is not None}
    if guilty := sorted(number for number in waited if number in records and records[number].waits is None):
        others = [number for number, each in records.items() if each.waits in guilty]
        return f"{_at(guilty, records)}; {_names(others)} {_form(others, 'waits', 'wait')} for it"
    first = min(each.begun for each in records.values())
    behind = [number for number, each in records.items() if each.begun == first]
    if len(behind) < len(records):
        ahead = max(records.values(), key=lambda each: each.begun)
        return f"{_at(behind, records)}; others are at {ahead.name!r}"
    places = Counter(each.place for each in records.values())
    rare = [number for number, each in records.items() if places[each.place] * 2 < len(records)]
    if 0 < len(rare) * 2 < len(records):
        usual = places.most_common(1)[0][0]
        return f"{_at(rare, records)}, in {records[rare[0]].place}; the others are in {usual}"
    where = ", ".join(f"process {number} in {records[number].place}" for number in sorted(records)[:NAMED])
    return f"no process is behind the others at {records[min(records)].name!r} ({where})"


def _at(numbers: Sequence[int], records: Mapping[int, Record]) -> str:
    record = records[numbers[0]]
    return (
        f"{_names(numbers)} {_form(numbers, 'is', 'are')} late: at {record.name!r} for {record.seconds:.3g} s"
    )


def _silent(seconds: Mapping[int, float], records: Mapping[int, Record]) -> str:
    numbers = list(seconds)
    last = records.get(numbers[0], Record()).name
    return (
        f"{_names(numbers)} {_form(numbers, 'is', 'are')} late: no sign of life for {max(seconds.values()):.3g} s, "
        f"the last at {last!r}"
    )


def _names(numbers: Sequence[int]) -> str:
    """Processes by number."""
    shown = [str(number) for number in sorted(numbers)[:NAMED]]
    if len(numbers) > NAMED:
        shown[-1:] = [f"{len(numbers) - NAMED + 1} more"]
    listed = " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
    return f"{_form(numbers, 'process', 'processes')} {listed}"


def _form(numbers: Sequence[int], one: str, several: str) -> str:
    return one if len(numbers) == 1 else several


def _read(text: str) -> Record:
    return Record(**json.loads(text))


def _place() -> str:
    """The function in which the main thread is."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return f"{frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})" if frame else ""


def show_stacks() -> None:
    """Write the stacks of all threads of this process to stderr."""
    logging.shutdown()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    with contextlib.suppress(Exception):
        faulthandler.dump_traceback(file=2, all_threads=True)
