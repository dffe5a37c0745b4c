"""What the loop reports: metrics read one step late, rates over the interval since the last log, evaluations.

The recorder serves every objective and both stages. A step's metrics are of three kinds, by name:

- `*_sum`: sums over examples or predictions. They add up over the steps since
  the last log, and the stage's `summarise` makes losses and scores of them. Of a population they have an axis [M].
- `learning_rate` and `grad_norm`: logged as they are at the step of the log.
- all others: counts. The stage's `rates` makes speeds of their totals over an interval.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from pretrain.optim.finite import NONFINITE
from pretrain.reports.metric_writer import MetricWriter
from pretrain.reports.progress_line import Progress

logger = logging.getLogger(__name__)

LAST = ("learning_rate", "grad_norm")
"""Metrics of which the last value is logged."""

Values = dict[str, Any]
"""Numbers by name, or arrays [M] of a population."""
Summarise = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Makes {"loss": ..., "accuracy": ...} of sums; "loss" must be among them."""


@dataclass
class Interval:
    """What was done since the clock was started; evaluations and compilations are left out."""

    start: float
    paused: float = 0.0
    waited: float = 0.0
    """Seconds for which steps waited for their batches."""
    steps: int = 0
    totals: Values = field(default_factory=dict)
    """Totals of all metrics but those of `LAST`."""
    seconds: float = 0.0
    """Its length, known when it ends."""
    last_step: int = 0
    """The number of its last step, likewise."""


Look = Callable[[int, Mapping[str, Any]], None]
"""Takes the number of a step (from 1) and its metrics; raises an error to end the run."""

Rates = Callable[[Interval], Mapping[str, float]]
"""Makes {"train/tokens_per_second": ...} of an interval that has ended."""


class Recorder:
    """Turns the device's sums into logged metrics without making the device wait.

    The metrics of step n are fetched when step n + 1 has been dispatched, so that the device always has work queued.
    """

    def __init__(
        self,
        writers: Sequence[MetricWriter],
        progress: Progress | None,
        *,
        summarise: Summarise,
        rates: Rates,
        every: int,
        last_step: int,
        log_at: Collection[int] = (),
        sums: Mapping[str, Any] | None = None,
        look: Look | None = None,
    ):
        """Report every `every` steps, and at the last.

        Args:
          writers: where metrics go: first those of the run (means of a population), then those of each member where
            there are several. Empty on processes that do not write.
          progress: the line in the terminal; None likewise.
          summarise: makes losses and scores of sums.
          rates: makes speeds of an interval.
          every: steps between logs.
          last_step: the run's.
          log_at: further steps to log at: the last step of each objective, since the sums of two do not add up.
          sums: the sums since the last log of a run that resumes.
          look: looks at the metrics of each step, and may end the run.
        """
        self._writers, self._progress = tuple(writers), progress
        self._summarise, self._rates = summarise, rates
        self._look = look
        self._every, self._log_at = every, {*log_at, last_step}
        self._sums = {name: np.asarray(value, np.float64) for name, value in (sums or {}).items()}
        self._pending: tuple[int, Mapping[str, Any]] | None = None
        self._interval = Interval(time.perf_counter())
        self.last: dict[str, float] = {}
        """The last value of each metric that was logged."""

    def start(self) -> None:
        """Start the clock of the steps that follow."""
        self._interval = Interval(time.perf_counter())
        if self._progress is not None:
            self._progress.restart()

    def step(self, step: int, metrics: Mapping[str, Any], *, waited: float) -> None:
        """Take the metrics of step number `step` (counted from 1), just dispatched; read those of the step before.

        Args:
          step: the step's number.
          metrics: arrays on the device, as the compiled step returns them, and counts that the host knows.
          waited: seconds for which the step waited for its batch.
        """
        self._interval.waited += waited
        before, self._pending = self._pending, (step, metrics)
        if before is not None:
            self._read(*before)

    def flush(self) -> None:
        """Read what is pending; waits for the device."""
        if self._pending is not None:
            before, self._pending = self._pending, None
            self._read(*before)

    def put(self) -> None:
        """Read what is pending, and have all that was logged in the files."""
        self.flush()
        for writer in self._writers:
            writer.flush()

    @contextlib.contextmanager
    def paused(self, *, compiling: str = "") -> Iterator[None]:
        """Read what is pending, and leave what happens inside (an evaluation, say) out of the rates.

        If something is compiled inside, `compiling` names it. The name is logged at once, and the elapsed time is left
        out of the estimate of the remaining time too.
        """
        self.flush()
        if compiling:
            logger.info("compiling %s ...", compiling)
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self._interval.paused += seconds
        if compiling and self._progress is not None:
            self._progress.leave_out(seconds)

    def evaluation(
        self, step: int, values: Mapping[str, float], members: Sequence[Mapping[str, float]] = ()
    ) -> None:
        """Log an evaluation made after step number `step`.

        Args:
          step: the step's number.
          values: the metrics by full name; means of a population.
          members: those of each member of a population.
        """
        self._write(step, values)
        for writer, own in zip(self._writers[1:], members):
            writer.write(step, own)

    @property
    def sums(self) -> Values:
        """Sums since the last log, for JSON. They are part of a run's state, so a resumed run logs the same metrics."""
        return {name: total.tolist() for name, total in self._sums.items()}

    def _read(self, step: int, metrics: Mapping[str, Any]) -> None:
        values = {
            name: np.asarray(value, np.float64) for name, value in jax.device_get(dict(metrics)).items()
        }
        if self._look is not None:
            self._look(step, values)
        interval, own = self._interval, {}
        interval.steps += 1
        for name, value in values.items():
            if name in LAST:
                continue
            interval.totals[name] = interval.totals.get(name, 0.0) + value
            if name.endswith("_sum"):
                own[name] = value
                self._sums[name] = np.asarray(self._sums.get(name, 0.0) + value)
        if self._progress is not None:
            self._progress.update(step, loss=_mean(self._summarise(own)["loss"]))
        if step % self._every == 0 or step in self._log_at:
            self._log(step, {name: values[name] for name in LAST if name in values})

    def _log(self, step: int, last: Mapping[str, Any]) -> None:
        interval, now = self._interval, time.perf_counter()
        interval.seconds, interval.last_step = max(now - interval.start - interval.paused, 1e-9), step
        summary = {f"train/{name}": value for name, value in {**self._summarise(self._sums), **last}.items()}
        skipped = float(np.sum(interval.totals.get(NONFINITE, 0)))
        self._sums, self._interval = {}, Interval(now)
        means = {name: _mean(value) for name, value in summary.items()}
        rates = self._rates(interval)  # may measure the machine, which is no time of the steps to come
        self._interval.paused = time.perf_counter() - now
        self._write(step, {**means, **rates, **({"train/skipped_steps": skipped} if skipped else {})})
        for member, writer in enumerate(self._writers[1:]):
            writer.write(step, {name: float(value[member]) for name, value in summary.items()})

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        self.last.update(values)
        for writer in self._writers[:1]:
            writer.write(step, values)
        if self._progress is not None:
            self._progress.log(step, values)


def _mean(values: Any) -> float:
    """The mean over the runs of a population whose value is finite; NaN where there is none."""
    finite = np.asarray(values)[np.isfinite(values)]
    return float(np.mean(finite)) if finite.size else math.nan
