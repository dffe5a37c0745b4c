"""What the loop reports: metrics read one step late, rates over the interval since the last log, evaluations."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from pretrain.flops import StepWork
from pretrain.metrics import MetricWriter
from pretrain.progress import Progress


@dataclass
class _Interval:
    """Sums since the last log."""

    start: float
    paused: float = 0.0
    waited: float = 0.0
    steps: int = 0
    loss_sum: float = 0.0
    correct_sum: float = 0.0
    weight_sum: float = 0.0
    tokens: float = 0.0
    flops: float = 0.0


class Recorder:
    """Turns the device's sums into logged metrics without making the device wait.

    The metrics of step n are fetched when step n + 1 has been dispatched, so the device always has work queued.
    """

    def __init__(
        self,
        writer: MetricWriter | None,
        progress: Progress | None,
        work: StepWork,
        *,
        every: int,
        peak_flops: float | None,
    ):
        """Report every `every` steps.

        Args:
          writer: where metrics go; None on processes that do not write.
          progress: the line in the terminal; None likewise.
          work: counts the FLOPs of a step.
          every: steps between logs.
          peak_flops: FLOP/s of all devices together at their best; None leaves train/mfu out.
        """
        self._writer, self._progress, self._work = writer, progress, work
        self._every, self._peak = every, peak_flops
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self._interval = _Interval(time.perf_counter())
        self.last: dict[str, float] = {}

    def start(self) -> None:
        """Begin to time the steps that follow."""
        self._interval = _Interval(time.perf_counter())

    def step(self, step: int, metrics: Mapping[str, jax.Array], *, waited: float) -> None:
        """Take the metrics of step number `step` (counted from 1), just dispatched; log those of the step before.

        Args:
          step: the step's number.
          metrics: scalars on the device, as `make_train_step` returns them.
          waited: seconds for which the step waited for its batch.
        """
        before = self._pending
        self._pending = (step, metrics)
        if before is not None:
            self._read(*before)
        self._interval.waited += waited

    def flush(self) -> None:
        """Log what is pending; waits for the device."""
        if self._pending is not None:
            before, self._pending = self._pending, None
            self._read(*before)

    def _read(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        values: dict[str, Any] = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        interval = self._interval
        interval.steps += 1
        interval.loss_sum += values["loss_sum"]
        interval.correct_sum += values["correct_sum"]
        interval.weight_sum += values["weight_sum"]
        interval.tokens += values["tokens"]
        interval.flops += self._work.flops(
            tokens=values["tokens"], attended=values["attended"], predictions=values["weight_sum"]
        )
        if self._progress is not None:
            self._progress.update(step, loss=values["loss_sum"] / max(values["weight_sum"], 1.0))
        if step % self._every == 0:
            self._log(step, values)

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        interval, now = self._interval, time.perf_counter()
        elapsed = max(now - interval.start - interval.paused, 1e-9)
        weight = max(interval.weight_sum, 1.0)
        loss = interval.loss_sum / weight
        logged = {
            "train/loss": loss,
            "train/accuracy": interval.correct_sum / weight,
            "train/perplexity": math.exp(min(loss, 700.0)) if math.isfinite(loss) else math.nan,
            "train/learning_rate": values["learning_rate"],
            "train/grad_norm": values["grad_norm"],
            "train/tokens_per_second": interval.tokens / elapsed,
            "train/step_seconds": elapsed / interval.steps,
            "train/data_wait": interval.waited / elapsed,
        }
        if self._peak:
            logged["train/mfu"] = interval.flops / elapsed / self._peak
        self._interval = _Interval(now)
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

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens inside (an evaluation, say) out of the rates."""
        self.flush()
        start = time.perf_counter()
        yield
        self._interval.paused += time.perf_counter() - start
