"""What the loop reports: metrics read one step late, rates over the interval since the last log, evaluations."""

import abc
import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import jax

from pretrain.devices.flops import StepWork
from pretrain.reports.metric_writer import MetricWriter
from pretrain.reports.progress_line import Progress

logger = logging.getLogger(__name__)


@dataclass
class Sums:
    """Sums over the steps since the last log: part of a run's state, so that a resumed run logs what it would have."""

    loss_sum: float = 0.0
    correct_sum: float = 0.0
    weight_sum: float = 0.0
    maskable_sum: float = 0.0


@dataclass
class _Rates:
    """What was done since the clock was started."""

    start: float
    paused: float = 0.0
    waited: float = 0.0
    steps: int = 0
    tokens: float = 0.0
    flops: float = 0.0


class LateReader(abc.ABC):
    """Fetches the metrics of step n when step n + 1 has been dispatched, so that the device always has work queued."""

    _pending: tuple[int, Mapping[str, jax.Array]] | None = None
    _progress: Progress | None = None

    def _take(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Put these metrics, of the step just dispatched, in the place of those of the step before, and read those."""
        before, self._pending = self._pending, (step, metrics)
        if before is not None:
            self._read(*before)

    def flush(self) -> None:
        """Read what is pending; waits for the device."""
        if self._pending is not None:
            before, self._pending = self._pending, None
            self._read(*before)

    @contextlib.contextmanager
    def paused(self, *, compiling: str = "") -> Iterator[None]:
        """Read what is pending, and leave what happens inside (an evaluation, say) out of the rates.

        Where something is compiled inside, `compiling` says what: this is logged at once, and the time that it takes
        is left out of the time that is left, too.
        """
        self.flush()
        if compiling:
            logger.info("compiling %s ...", compiling)
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self._leave_out(seconds)
        if compiling and self._progress is not None:
            self._progress.leave_out(seconds)

    @abc.abstractmethod
    def _read(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Fetch the metrics of a step, and log them where they are due."""

    @abc.abstractmethod
    def _leave_out(self, seconds: float) -> None:
        """Take so many seconds out of the rates of the interval under way."""


class Recorder(LateReader):
    """Turns the device's sums into logged metrics without making the device wait."""

    def __init__(
        self,
        writer: MetricWriter | None,
        progress: Progress | None,
        work: StepWork,
        *,
        every: int,
        last_step: int,
        peak_flops: float | None,
        sums: Sums | None = None,
    ):
        """Report every `every` steps, and at the last.

        Args:
          writer: where metrics go; None on processes that do not write.
          progress: the line in the terminal; None likewise.
          work: counts the FLOPs of a step.
          every: steps between logs.
          last_step: the run's.
          peak_flops: FLOP/s of all devices together at their best; None leaves train/mfu out.
          sums: those that the run was stopped with.
        """
        self._writer, self._progress, self._work = writer, progress, work
        self._every, self._last_step, self._peak = every, last_step, peak_flops
        self.sums = sums or Sums()
        self._rates = _Rates(time.perf_counter())
        self.last: dict[str, float] = {}

    def start(self) -> None:
        """Start the clock of the steps that follow."""
        self._rates = _Rates(time.perf_counter())
        if self._progress is not None:
            self._progress.restart()

    def step(self, step: int, metrics: Mapping[str, jax.Array], *, waited: float) -> None:
        """Take the metrics of step number `step` (counted from 1), just dispatched; log those of the step before.

        Args:
          step: the step's number.
          metrics: scalars on the device, as `make_train_step` returns them.
          waited: seconds for which the step waited for its batch.
        """
        self._rates.waited += waited
        self._take(step, metrics)

    def put(self) -> None:
        """Log what is pending, and have all that was logged in the files."""
        self.flush()
        if self._writer is not None:
            self._writer.flush()

    def _read(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        sums, rates = self.sums, self._rates
        sums.loss_sum += values["loss_sum"]
        sums.correct_sum += values["correct_sum"]
        sums.weight_sum += values["weight_sum"]
        sums.maskable_sum += values["maskable"]
        rates.steps += 1
        rates.tokens += values["tokens"]
        rates.flops += self._work.flops(
            tokens=values["tokens"], attended=values["attended"], predictions=values["weight_sum"]
        )
        if self._progress is not None:
            self._progress.update(step, loss=values["loss_sum"] / max(values["weight_sum"], 1.0))
        if step % self._every == 0 or step == self._last_step:
            self._log(step, values)

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        sums, rates, now = self.sums, self._rates, time.perf_counter()
        elapsed = max(now - rates.start - rates.paused, 1e-9)
        weight = max(sums.weight_sum, 1.0)
        loss = sums.loss_sum / weight
        logged = {
            "train/loss": loss,
            "train/accuracy": sums.correct_sum / weight,
            "train/perplexity": math.exp(min(loss, 700.0)) if math.isfinite(loss) else math.nan,
            "train/predicted_share": sums.weight_sum / max(sums.maskable_sum, 1.0),
            "train/learning_rate": values["learning_rate"],
            "train/grad_norm": values["grad_norm"],
            "train/tokens_per_second": rates.tokens / elapsed,
            "train/step_seconds": elapsed / rates.steps,
            "train/data_wait": min(rates.waited / elapsed, 1.0),
        }
        if self._peak:
            logged["train/mfu"] = rates.flops / elapsed / self._peak
        self.sums, self._rates = Sums(), _Rates(now)
        self._write(step, logged)

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Log an evaluation made after step number `step`."""
        self._write(step, values)

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        self.last.update(values)
        if self._writer is not None:
            self._writer.write(step, values)
        if self._progress is not None:
            self._progress.log(step, values)

    def _leave_out(self, seconds: float) -> None:
        self._rates.paused += seconds
