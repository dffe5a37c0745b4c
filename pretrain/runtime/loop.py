"""The training loop of both stages: resume, stretches of steps, signals, evaluation, saving, profiling, finish marker.

**Resume** takes the newest whole checkpoint of the workdir. All processes must have found the same one. Without a
checkpoint the stage makes the state of step 0. If steps are left, the finish marker of an earlier end is removed.

**A stretch** is a number of steps that one reader feeds: a phase of pretraining, or a whole fine-tuning run. Its order:

1. The stretch reads its first batch. What is wrong with the text shows before anything is compiled or written.
2. It compiles its steps, and the run's summary, memory included, is shown.
3. At the first stretch only: the files that describe the run are written, and the metric files are opened. From here
   on a signal ends the run after the step at hand. (Before, it ends the command: see `pretrain.runtime.train_command`.)

**A step** has this order of operations, which is a contract with all that a checkpoint must reproduce:

1. *Profile*: start or stop the profiler, as `config.log` says.
2. *Dispatch* step n with the batch at hand. The host does not wait for the device.
3. *Read the metrics of step n - 1*, while the device works on step n: log them where they are due, and see in them
   whether any process was sent a signal.
4. *Evaluate* if the stage says that it is due; before that, step n is read too. Rates leave this time out.
5. *Save* if it is due, if the evaluation was the best so far, or if the run has ended. All metrics up to step n are in
   the files before its checkpoint is.
6. *Next batch*, unless the stretch or the run has ended, or a signal has come. If that fails, the state is saved first.

**The end**: what is pending is read; a run that a signal has stopped is saved; the last checkpoint is waited for. A
signal in the last step changes nothing: the run has finished.
"""

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import jax
from etils import epath
from jax.sharding import Mesh

from base import schema
from base.errors import UserError
from base.interruptible import raise_noted
from base.set_fields import Given, as_begun
from pretrain.config import LogConfig
from pretrain.reports.metric_writer import MetricWriter
from pretrain.reports.progress_line import Progress
from pretrain.reports.recorder import Interval, Recorder
from pretrain.runtime import processes
from pretrain.runtime import workdir as workdirs
from pretrain.runtime.bad_numbers import Guard
from pretrain.runtime.changes import Changes, Rules, check_unchanged
from pretrain.runtime.checkpointer import Checkpointer, Run
from pretrain.runtime.interruption import Interruption
from pretrain.runtime.profiling import profile

logger = logging.getLogger(__name__)

C = TypeVar("C")

MetricFolders = Sequence[tuple[epath.Path, Mapping[str, Any] | None]]
"""Folders of metrics, the run's own first, each with the hyperparameters that TensorBoard shows of it."""


class StepBatch(Protocol):
    """What one step takes."""

    @property
    def wait(self) -> float:
        """Seconds for which the loop waited for it."""


class Stretch(Protocol):
    """Steps that one reader feeds."""

    @property
    def stop(self) -> int:
        """The number of steps that the run has made when the stretch is over."""

    def next(self, step: int) -> Any:
        """Return the `StepBatch` of step number `step` (from 0).

        Raises:
          UserError: the text or the examples cannot be read on.
        """

    def compile(self, interruption: Interruption) -> None:
        """Compile the steps, before the first of them is made."""

    def describe(self, step: int) -> None:
        """Show what is about to be done, memory included; called on every process."""

    def dispatch(
        self, state: Any, batch: Any, flags: Mapping[str, jax.Array]
    ) -> tuple[Any, Mapping[str, Any]]:
        """Have the devices make a step: returns the next state and the step's metrics (see `Recorder.step`).

        Args:
          state: the state, whose memory is used again.
          batch: what `next` returned.
          flags: what the interruption adds to the batch.
        """


class Stage(Protocol):
    """The parts of a run that differ between the stages; the loop does the rest."""

    @property
    def config(self) -> Any:
        """The config that checkpoints save, a dataclass."""

    @property
    def log(self) -> LogConfig:
        """`config.log`."""

    @property
    def mesh(self) -> Mesh:
        """Where the state lies."""

    @property
    def steps(self) -> int:
        """Steps of the whole run."""

    @property
    def log_at(self) -> Collection[int]:
        """Steps to log at beside every `config.log.every`."""

    @property
    def abstract(self) -> Any:
        """The state's tree with shape, dtype and sharding at each leaf."""

    @property
    def guard(self) -> Guard:
        """Looks for losses, gradients and weights that are not finite."""

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """What must not change when the run goes on, by its name."""

    def first_state(self) -> Any:
        """Make the state of step 0."""

    def recall(self, run: Run) -> Mapping[str, Any]:
        """Restore the values of `remembered` from a checkpoint's `run` item. Returns the recorder's sums."""

    def remembered(self) -> Mapping[str, Any]:
        """What the run remembers besides its arrays, JSON-able; called on every process before each checkpoint."""

    def ended(self, step: int) -> bool:
        """Whether nothing is left to train after so many steps."""

    def stretch(self, step: int) -> contextlib.AbstractContextManager[Stretch]:
        """Open the stretch of step number `step` (from 0)."""

    def write_start(self, step: int) -> None:
        """Write the files that describe the run; called on the first process."""

    def write_before_checkpoint(self) -> None:
        """Write what must be there before a checkpoint is; called on the first process."""

    def metric_folders(self) -> MetricFolders:
        """Where metrics go."""

    def summarise(self, sums: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make losses and scores of sums (see `Recorder`)."""

    def rates(self, interval: Interval) -> Mapping[str, float]:
        """Make speeds of an interval (see `Recorder`)."""

    def evaluation_due(self, step: int) -> bool:
        """Whether to evaluate after so many steps."""

    def evaluation_compiled(self, step: int) -> bool:
        """Whether the evaluation after so many steps has nothing to compile."""

    def evaluate(self, state: Any, step: int, recorder: Recorder) -> tuple[Any, bool]:
        """Evaluate and log; returns the state, and whether to save it for being the best so far."""

    def saving_due(self, step: int) -> bool:
        """Whether to save after so many steps."""

    def finish(self, step: int, *, before: bool) -> None:
        """Write the outputs of a run that has ended (`before`: before this call). Called on every process."""


@dataclass(frozen=True)
class Begun:
    """A run whose folder is open."""

    checkpointer: Checkpointer
    saved: Run | None
    """The `run` item that it goes on from; None where it begins."""
    config: Any
    """Its config, with the values that reproduce an older run."""
    changes: Changes
    """The fields that change here, which the user has accepted."""


@dataclass(frozen=True)
class Ended:
    """How a call of the loop ended."""

    state: Any
    step: int
    interrupted: str
    """The signal that stopped the run before its end; empty if it finished."""
    requested: str
    """The signal that came, even if it came in the last step. After it, no other run should begin."""
    metrics: dict[str, float]
    """The last value of each metric that was logged."""


@contextlib.contextmanager
def begun(
    workdir: epath.Path,
    config: C,
    rules: Rules[C],
    *,
    keep: int,
    verify: bool,
    given: Given,
    accept_changes: bool,
) -> Iterator[Begun]:
    """Open a run's folder, and compare its config with that of the newest checkpoint.

    Args:
      workdir: the run's folder, local or gs://.
      config: the run's config, as given.
      rules: what of it may change.
      keep: newest checkpoints kept.
      verify: whether checkpoints are compared with their manifests.
      given: the fields of the config that were set, and where.
      accept_changes: go on although the config differs.

    Raises:
      UserError: the folder cannot be written or holds another run, or the processes disagree.
    """
    with workdirs.opened(workdir, config, keep=keep, verify=verify) as checkpointer:
        saved, changed = checkpointer.read_run(), {}
        if saved is None:
            processes.from_first(lambda: workdirs.check_not_lost(workdir))
        else:
            config = as_begun(config, saved["config"], given)
            changed = check_unchanged(rules, saved["config"], config, accept=accept_changes)
            for name, (old, new) in changed.items():
                logger.warning("config.%s changes from %r to %r at step %d", name, old, new, saved["step"])
        yield Begun(checkpointer, saved, config, changed)


class Loop:
    """One call of a stage's `train`, from its start or its checkpoint to its end."""

    def __init__(self, stage: Stage, workdir: epath.Path, checkpointer: Checkpointer):
        self._stage, self._workdir, self._checkpointer = stage, workdir, checkpointer
        self._interruption = Interruption(stage.mesh)
        self._recorder: Recorder | None = None
        self._sums: Mapping[str, Any] = {}
        self._profiling = contextlib.ExitStack()
        self._writes = processes.is_first()

    def run(self) -> Ended:
        """Resume or start, then make the steps that are left."""
        stage = self._stage
        state, step = self._first_state()
        if stage.ended(step):
            stage.finish(step, before=True)
            return Ended(state, step, "", "", {})
        if self._writes:
            (self._workdir / workdirs.FINISHED_FILE).unlink(missing_ok=True)
        with self._profiling, contextlib.ExitStack() as reports:
            while not (stage.ended(step) or self._interruption.requested):
                state, step = self._make_stretch(state, step, reports)
            self._checkpointer.wait()  # while signals are still only noted
            self._report_save()
            if ended := stage.ended(step):
                if step not in self._checkpointer.steps:
                    raise UserError(
                        f"the last checkpoint could not be saved, so the run in {self._workdir} is not finished: make "
                        "room, then run the same command again"
                    )
                stage.finish(step, before=False)
        requested = self._interruption.requested
        metrics = dict(self._recorder.last) if self._recorder else {}
        return Ended(state, step, "" if ended else requested, requested, metrics)

    def _first_state(self) -> tuple[Any, int]:
        restored = self._checkpointer.restore(self._stage.abstract)
        processes.check_same({"the newest checkpoint that can be read": restored and restored[1]["step"]})
        if restored is None:
            return self._stage.first_state(), 0
        state, run = restored
        self._sums = self._stage.recall(run)
        self._stage.guard.in_a_row = run.get("bad_in_a_row", self._stage.guard.in_a_row)
        logger.info("resumed at step %d", run["step"])
        return state, int(run["step"])

    def _make_stretch(self, state: Any, step: int, reports: contextlib.ExitStack) -> tuple[Any, int]:
        """Make the steps from number `step` (from 0) to the end of its stretch, of the run, or to a signal."""
        stage, interruption = self._stage, self._interruption
        with stage.stretch(step) as stretch:
            batch = stretch.next(step)
            raise_noted()
            stretch.compile(interruption)
            raise_noted()
            stretch.describe(step)
            recorder = self._recorder = self._recorder or self._start_reports(reports, step)
            recorder.start()
            waited = 0.0
            while not self._over(stretch, step):
                profile(self._profiling, stage.log, step, self._workdir if self._writes else None)
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    state, metrics = stretch.dispatch(state, batch, interruption.flags())
                step += 1
                recorder.step(step, interruption.read(metrics), waited=waited)
                self._report_save()
                state, improved = self._evaluate(recorder, state, step)
                if improved or stage.ended(step) or stage.saving_due(step):
                    self._save(recorder, state, step)
                if not self._over(stretch, step):
                    batch = self._next(stretch, recorder, state, step)
                    waited = batch.wait
            recorder.flush()
            if interruption.requested and step > 0:
                self._save(recorder, state, step)
        return state, step

    def _report_save(self) -> None:
        """Note the newest checkpoint that is committed, and say if the last one has failed; waits for nothing."""
        committed = self._checkpointer.report()
        if committed and self._writes:
            workdirs.write_saved(self._workdir, committed)

    def _over(self, stretch: Stretch, step: int) -> bool:
        """Whether a stretch makes no further step."""
        return self._stage.ended(step) or step >= stretch.stop or bool(self._interruption.requested)

    def _next(self, stretch: Stretch, recorder: Recorder, state: Any, step: int) -> Any:
        try:
            return stretch.next(step)
        except UserError:
            if processes.count() == 1:  # the others are on their way to the next step
                self._save(recorder, state, step)
            raise

    def _evaluate(self, recorder: Recorder, state: Any, step: int) -> tuple[Any, bool]:
        stage = self._stage
        if not stage.evaluation_due(step):
            return state, False
        with recorder.paused(compiling="" if stage.evaluation_compiled(step) else "the evaluation"):
            return stage.evaluate(state, step, recorder)

    def _start_reports(self, reports: contextlib.ExitStack, step: int) -> Recorder:
        """Write what describes the run, and open what reports on it, until `reports` is closed."""
        stage, writers, progress = self._stage, list[MetricWriter](), None
        if self._writes:
            stage.write_start(step)
            for folder, hyperparameters in stage.metric_folders():
                writer = reports.enter_context(MetricWriter(folder, resume_step=step or None))
                if step == 0 and hyperparameters is not None:
                    writer.write_hyperparameters(hyperparameters)
                writers.append(writer)
            progress = reports.enter_context(Progress(stage.steps, start_step=step))
        reports.enter_context(self._interruption)
        return Recorder(
            writers,
            progress,
            summarise=stage.summarise,
            rates=stage.rates,
            every=stage.log.every,
            last_step=stage.steps,
            log_at=stage.log_at,
            sums=self._sums,
            look=self._stage.guard.look,
        )

    def _save(self, recorder: Recorder, state: Any, step: int) -> None:
        """Start saving a checkpoint; its metrics are in the files before it is."""
        self._checkpointer.check_place()
        recorder.put()
        self._stage.guard.check_params(step, state)
        if self._writes:
            self._stage.write_before_checkpoint()
        run = {
            "config": schema.as_dict(self._stage.config),
            "fingerprints": dict(self._stage.fingerprints),
            "sums": recorder.sums,
            "bad_in_a_row": self._stage.guard.in_a_row,
            **self._stage.remembered(),
        }
        self._checkpointer.save(step, state, run)
