"""What the loop reports: losses read one step late, evaluations, for each run of the population and their mean."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import jax
import numpy as np
from etils import epath

from base import schema
from finetune.job import Job
from pretrain.reports.metric_writer import MetricWriter
from pretrain.reports.progress_line import Progress
from pretrain.reports.recorder import LateReader
from pretrain.runtime import processes

SUMS = ("loss_sum", "correct_sum", "weight_sum")


class Recorder(LateReader):
    """Turns the device's sums into logged metrics without making the device wait.

    The metrics of a single run go to WORKDIR/metrics.jsonl and WORKDIR/tensorboard; of several, each run has a
    folder WORKDIR/runs/NAME of its own, and WORKDIR holds their means.
    """

    def __init__(
        self, job: Job, workdir: epath.Path, step: int, sums: Mapping[str, Sequence[float]] | None = None
    ):
        """Go on from `step`, with the `sums` that the run was stopped with."""
        self._job, self._workdir, self._first_step = job, workdir, step
        self._stack = contextlib.ExitStack()
        self._writes = processes.is_first()
        self._counts: dict[
            int, tuple[float, int]
        ] = {}  # examples and tokens of steps whose metrics are not read
        self._mean: MetricWriter | None = None
        self._runs: list[MetricWriter] = []
        self._clear()
        if sums:
            self._sums = {name: np.asarray(sums[name], np.float64) for name in SUMS}

    def __enter__(self) -> Self:
        if self._writes:
            config, members = self._job.config, self._job.config.members
            resume = self._first_step or None
            self._mean = self._stack.enter_context(MetricWriter(self._workdir, resume_step=resume))
            if len(members) > 1:
                folders = [self._workdir / "runs" / name for name in member_names(self._job)]
                self._runs = [
                    self._stack.enter_context(MetricWriter(folder, resume_step=resume)) for folder in folders
                ]
            if not resume:
                values = schema.flatten(schema.as_dict(config))
                for member, writer in zip(members, self._runs or [self._mean]):
                    writer.write_hyperparameters(
                        {**values, "seed": member.seed, "optimizer.learning_rate": member.learning_rate}
                    )
            self._progress = self._stack.enter_context(Progress(self._job.steps, start_step=self._first_step))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def step(self, step: int, metrics: Mapping[str, jax.Array], *, examples: float, tokens: int) -> None:
        """Take the metrics [M] of step number `step` (from 1), just dispatched; read those of the step before."""
        self._counts[step] = (examples, tokens)
        self._take(step, metrics)

    @property
    def sums(self) -> dict[str, list[float]]:
        """Sums of each run since the last log: part of the state, so that a resumed run logs the same."""
        return {name: total.tolist() for name, total in self._sums.items()}

    def put(self) -> None:
        """Read what is pending, and have all that was logged in the files."""
        self.flush()
        for writer in (self._mean, *self._runs):
            if writer is not None:
                writer.flush()

    def _leave_out(self, seconds: float) -> None:
        self._start += seconds

    def evaluation(
        self, step: int, members: Sequence[Mapping[str, float]], mean: Mapping[str, float]
    ) -> None:
        """Log an evaluation."""
        if self._mean is None or self._progress is None:
            return
        self._mean.write(step, {f"eval/{name}": value for name, value in mean.items()})
        for writer, values in zip(self._runs, members):
            writer.write(step, {f"eval/{name}": value for name, value in values.items()})
        self._progress.log(step, {f"eval/{name}": value for name, value in mean.items()})

    def _read(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        values = {
            name: np.asarray(value, np.float64) for name, value in jax.device_get(dict(metrics)).items()
        }
        for name in self._sums:
            self._sums[name] = self._sums[name] + values[name]
        examples, tokens = self._counts.pop(step)
        self._examples += examples
        self._tokens += tokens
        if self._progress is not None:
            loss = float(np.mean(values["loss_sum"] / values["weight_sum"]))
            self._progress.update(step, loss=loss)
        if step % self._job.config.log.every == 0 or step == self._job.steps:
            self._log(step, values)

    def _log(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        seconds = max(time.perf_counter() - self._start, 1e-9)
        weight = np.maximum(self._sums["weight_sum"], 1.0)
        runs = {"train/loss": self._sums["loss_sum"] / weight}
        runs |= {f"train/{name}": values[name] for name in ("grad_norm", "learning_rate")}
        if self._job.labels:
            runs["train/accuracy"] = self._sums["correct_sum"] / weight
        rates = {
            "train/examples_per_second": self._examples / seconds,
            "train/tokens_per_second": self._tokens / seconds,
        }
        self._clear()
        if self._mean is None or self._progress is None:
            return
        mean = {name: float(np.mean(value)) for name, value in runs.items()} | rates
        self._mean.write(step, mean)
        for index, writer in enumerate(self._runs):
            writer.write(step, {name: float(value[index]) for name, value in runs.items()})
        self._progress.log(step, mean)

    def _clear(self) -> None:
        """Begin a new interval."""
        self._sums = {name: np.zeros(len(self._job.config.members)) for name in SUMS}
        self._examples, self._tokens, self._start = 0.0, 0, time.perf_counter()


def member_names(job: Job) -> list[str]:
    """A name for each run of the population: by seed, and by learning rate where there are several."""
    several = len(job.config.learning_rates) > 1
    return [
        f"seed{member.seed}" + (f"_lr{member.learning_rate:g}" if several else "")
        for member in job.config.members
    ]
