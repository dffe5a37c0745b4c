"""A run of the ladder: what it is, what it came to, and the clock of its steps."""

import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SPEC, RESULT, STEPS = "run.json", "result.json", "steps.jsonl"


@dataclass(frozen=True)
class Run:
    """What a run is; two runs that differ in any of this are not the same run."""

    text: str
    """The folder of its text."""
    rung: str
    seed: int
    tokens: int
    """Tokens of training, padding included."""
    points: int
    """How often it is scored, at equal distances."""
    fields: Mapping[str, Any] | None = None
    """Fields of the pretraining config; None for a baseline."""
    peer: Mapping[str, Any] | None = None
    """Fields of a `Peer`; None for ours."""
    sizes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Sizes of a baseline's network and batches, by the names of the pretraining config."""

    def write(self, folder: Path) -> None:
        """Write it into the folder of the run.

        Raises:
          SystemExit: the folder holds another run.
        """
        file, mine = folder / SPEC, json.loads(json.dumps(dataclasses.asdict(self)))
        if file.exists() and (there := json.loads(file.read_text())) != mine:
            differing = sorted(key for key in mine if there.get(key) != mine[key])
            raise SystemExit(
                f"{folder} holds a run with other {', '.join(differing)}; remove it, or name another --out"
            )
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(mine, indent=2) + "\n")

    @staticmethod
    def read(folder: Path) -> "Run":
        """The run of a folder."""
        return Run(**json.loads((folder / SPEC).read_text()))


@dataclass(frozen=True)
class Point:
    """A score on the held-out rows."""

    step: int
    tokens: int
    loss: float
    """Nats a prediction."""
    accuracy: float


class Clock:
    """Wall and processor seconds of each step, kept in a file, so that a run that goes on has those of before.

    A step's seconds are those since the step before. Steps before which something else was done (a compilation, a
    save, a score) count as much as the next step that is timed.
    """

    def __init__(self, folder: Path):
        """Keep the seconds in the run's folder."""
        self._file = folder / STEPS
        self._last: tuple[float, float] | None = None
        self._left_out = 0

    def note(self, step: int) -> None:
        """Step number `step` (from 1) was dispatched or made."""
        if self._left_out:
            self._left_out -= 1
            return
        now = time.perf_counter(), time.process_time()
        if self._last is not None:
            seconds = [round(new - old, 6) for new, old in zip(now, self._last)]
            with self._file.open("a") as file:
                file.write(json.dumps([step, *seconds]) + "\n")
        self._last = now

    def leave_out(self, dispatched: int = 0) -> None:
        """What is done now is no part of a step.

        Args:
          dispatched: steps that are dispatched after it before the first of them is waited for.
        """
        self._last, self._left_out = None, dispatched

    def totals(self, steps: Sequence[int]) -> list[tuple[float, float]]:
        """Wall and processor seconds of all steps up to each of `steps`."""
        known = {}
        for line in self._file.read_text().splitlines():
            step, *seconds = json.loads(line)
            known[step] = seconds
        if not known:
            raise ValueError(f"{self._file}: no step was timed")
        at = np.array(sorted(known))
        of = np.array([known[step] for step in at])
        every = np.arange(1, max(steps) + 1)
        sums = np.cumsum(of[np.minimum(np.searchsorted(at, every), len(at) - 1)], axis=0)
        return [(float(sums[step - 1, 0]), float(sums[step - 1, 1])) for step in steps]


def write_result(
    folder: Path, run: Run, points: Sequence[Point], clock: Clock, began: float, **facts: Any
) -> dict[str, Any]:
    """Write what a run came to; returns it.

    Args:
      folder: the run's.
      run: the run.
      points: its scores.
      clock: its steps' seconds.
      began: `time.perf_counter()` at the start of this process' work, for the seconds with all else.
      facts: further facts.
    """
    seconds = clock.totals([point.step for point in points])
    curve = [
        {**dataclasses.asdict(point), "wall": round(wall, 2), "processor": round(processor, 2)}
        for point, (wall, processor) in zip(points, seconds)
    ]
    result = {
        **dataclasses.asdict(run),
        "curve": curve,
        "seconds_with_all_else": round(time.perf_counter() - began, 1),
        "load": round(os.getloadavg()[1], 2),
        "machine": machine(),
        **facts,
    }
    temporary = folder / f"{RESULT}.new"
    temporary.write_text(json.dumps(result) + "\n")
    temporary.replace(folder / RESULT)
    return result


def machine() -> str:
    """The processor's name and the number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'processor unknown'}, {os.cpu_count()} cores"
