"""The training loop of both stages: resume, stretches of steps, signals, evaluation, saving, profiling, finish marker.

**Resume** takes the newest whole checkpoint of the workdir. All processes must have found the same one. Without a
checkpoint the stage makes the state of step 0. If steps are left, the finish marker of an earlier end is removed.

**A stretch** is a number of steps that one reader feeds: a phase of pretraining, or a whole fine-tuning run. Its order:

1. The stretch reads its first batch. What is wrong with the text shows before anything is compiled or written.
2. It compiles its steps. All processes wait for the last of them. The run's summary, memory included, is shown.
3. At the first stretch only: the files that describe the run are written, and the metric files are opened. From here
   on a signal ends the run after the step at hand. (Before, it ends the command: see `pretrain.runtime.train_command`.)
4. At step 0 only: the stage evaluates if it says that it is due, so that the log has where the run starts.

**A step** has this order of operations, which is a contract with all that a checkpoint must reproduce:

1. *Profile*: start or stop the profiler, as `config.log` says.
2. *Dispatch* step n with the batch at hand. The host does not wait for the device.
3. *Read the metrics of step n - 1*, while the device works on step n: log them where they are due, and see in them
   whether any process was sent a signal.
4. *Evaluate* if the stage says that it is due; before that, step n is read too. Rates leave this time out.
5. *Save* if it is due, if the evaluation was the best so far, or if the run has ended. All metrics up to step n are in
   the files before its checkpoint is.
6. *Next batch*, unless the stretch or the run has ended, or a signal has come. If that fails, the state is saved first.

**A loss spike** (`config.spike`) is found when the metrics of its step are read, in 3, 4 or 5. The step is then neither
evaluated nor saved. The run leaves the stretch and goes back to its newest checkpoint, which is from before the spike;
the text goes on after the batches that are skipped. The files of metrics are opened again, as on resume. All this
follows from the checkpoint. So a run that is killed meanwhile finds the same spike and skips the same batches again.

**The end**: what is pending is read; a run that a signal has stopped is saved; the last checkpoint is waited for. A
signal in the last step changes nothing: the run has finished.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import jax
import numpy as np
from etils import epath

from base import schema
from base.errors import UserError
from base.interruptible import raise_noted
from base.set_fields import Given, as_begun
from pretrain.optim.finite import NONFINITE
from pretrain.report.thread import ReportThread
from pretrain.reports.metric_writer import MetricWriter
from pretrain.reports.progress_line import Progress
from pretrain.reports.recorder import Interval, Recorder
from pretrain.reports.trackers import check_installed
from pretrain.runtime import processes
from pretrain.runtime import workdir as workdirs
from pretrain.runtime.changes import Changes, Rules, check_stage, check_unchanged, told
from pretrain.runtime.checkpointer import Checkpointer, Run
from pretrain.runtime.goodput import Account
from pretrain.runtime.interruption import Interruption
from pretrain.runtime.loss_spikes import Spike
from pretrain.runtime.optional_outputs import attempt
from pretrain.runtime.profiling import profile
from pretrain.runtime.stage import Stage, Stretch
from pretrain.runtime.watchdog import Watchdog

logger = logging.getLogger(__name__)

C = TypeVar("C")


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
    account: Account
    """Of its time, from here on."""


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
    account = Account()
    check_installed(cast(Any, config).log.trackers)
    with workdirs.opened(workdir, config, keep=keep, verify=verify) as checkpointer:
        saved, changed = checkpointer.read_run(whole=True), {}
        if saved is None:
            processes.from_first(lambda: workdirs.check_not_lost(workdir))
        else:
            check_stage(workdir, saved["config"], rules.config)
            config = as_begun(config, saved["config"], given)
            changed = check_unchanged(rules, saved["config"], config, accept=accept_changes)
            for name, change in told(changed, rules.config).items():
                logger.warning("config.%s changes from %s to %s at step %d", name, *change, saved["step"])
        checkpointer.changed = changed
        yield Begun(checkpointer, saved, config, changed, account)


class Loop:
    """One call of a stage's `train`, from its start or its checkpoint to its end."""

    def __init__(
        self,
        stage: Stage,
        workdir: epath.Path,
        checkpointer: Checkpointer,
        account: Account | None = None,
        report: Callable[[], None] | None = None,
    ):
        """Prepare a call; `report` writes the report of the run, after each evaluation and at the end."""
        self._stage, self._workdir, self._checkpointer = stage, workdir, checkpointer
        self._account = account or Account()
        self._interruption = Interruption(stage.mesh)
        self._recorder: Recorder | None = None
        self._watchdog = Watchdog(stage.config.time_limit)
        self._sums: Mapping[str, Any] = {}
        self._profiling, self._signals = contextlib.ExitStack(), contextlib.ExitStack()
        self._writes = processes.is_first()
        self._report = ReportThread(report if self._writes else None)

    def run(self) -> Ended:
        """Resume or start, then make the steps that are left."""
        try:
            return self._run()
        finally:
            self._watchdog.close()
            self._account.close()
            self._report.close()

    def _run(self) -> Ended:
        stage = self._stage
        with self._doing("restore" if self._checkpointer.steps else "start", "restoring or making the state"):
            state, step = self._first_state()
        if stage.ended(step):
            stage.finish(step, before=True)
            return Ended(state, step, "", "", {})
        if self._writes:
            (self._workdir / workdirs.FINISHED_FILE).unlink(missing_ok=True)
        with self._profiling, contextlib.ExitStack() as reports, self._signals:
            while not (stage.ended(step) or self._interruption.requested):
                state, step = self._make_stretch(state, step, reports)
                if spike := self._spike():
                    state = None  # its memory is needed for the state to come
                    state, step = self._go_back(spike, reports)
            with self._doing("save", "the last save"):
                self._checkpointer.wait()  # while signals are still only noted
            self._report_save()
            if ended := stage.ended(step):
                if step not in self._checkpointer.steps:
                    raise UserError(
                        f"the last checkpoint could not be saved, so the run in {self._workdir} is not finished: make "
                        "room, then run the same command again"
                    )
                stage.finish(step, before=False)
            logger.info("%s", self._account.end())
        self._report.write(last=True)
        requested, metrics = self._interruption.requested, dict(self._recorder.last) if self._recorder else {}
        return Ended(state, step, "" if ended else requested, requested, metrics)

    @contextlib.contextmanager
    def _doing(self, kind: str, name: str) -> Iterator[None]:
        """Have an activity watched, and its time counted."""
        category = {"first batch": "data", "skipping": "skipped"}.get(kind, kind)
        with self._watchdog.watching(kind, name), self._account.spending(category):
            yield

    def _first_state(self) -> tuple[Any, int]:
        state, run = self._newest_state()
        if run is None:
            return state, 0
        run = self._with_best_that_is_there(run)
        self._sums = self._stage.recall(run)
        self._stage.guard.in_a_row = run.get("bad_in_a_row", self._stage.guard.in_a_row)
        if self._writes:
            workdirs.write_saved(self._workdir, run["step"])  # a run of older code has no such note
        logger.info("resumed at step %d", run["step"])
        return state, int(run["step"])

    def _newest_state(self) -> tuple[Any, Run | None]:
        """The state and `run` item of the newest checkpoint; without a checkpoint the state of step 0, and None."""
        restored = self._checkpointer.restore(self._stage.abstract)
        processes.check_same({"the newest checkpoint that can be read": restored and restored[1]["step"]})
        return restored or (self._stage.first_state(), None)

    def _with_best_that_is_there(self, run: Run) -> Run:
        """A `run` item without a best evaluation whose checkpoint is gone, or was left behind by a branch."""
        best = run.get("best")
        return run | {"best": None} if best and best["step"] not in self._checkpointer.steps else run

    def _spike(self) -> Spike | None:
        """The loss spike that has been found, for which the run has to go back."""
        return self._stage.rewinding.spikes.found if self._stage.rewinding else None

    def _go_back(self, spike: Spike, reports: contextlib.ExitStack) -> tuple[Any, int]:
        """Restore the newest checkpoint; all checkpoints are from before the spike."""
        rewinding, checkpointer = self._stage.rewinding, self._checkpointer
        assert rewinding is not None
        self._profiling.close()
        reports.close()
        self._recorder = None
        with self._doing("restore", f"going back from step {spike.step}"):
            checkpointer.wait()
            self._report_save()
            steps = checkpointer.steps
            if len(steps) > 1 and rewinding.spikes.is_suspect(steps[-1]):
                logger.warning("step %d: the spike is back; checkpoint %d is deleted", spike.step, steps[-1])
                checkpointer.delete(steps[-1])
            state, run = self._newest_state()
        run = run and self._with_best_that_is_there(run)
        message, self._sums = rewinding.go_back(run)
        logger.warning("%s", message)
        guard = self._stage.guard
        guard.in_a_row = (run or {}).get("bad_in_a_row", [0] * len(guard.in_a_row))
        return state, int(run["step"]) if run else 0

    def _make_stretch(self, state: Any, step: int, reports: contextlib.ExitStack) -> tuple[Any, int]:
        """Make the steps from number `step` (from 0) to the end of its stretch, of the run, or to a signal."""
        stage, interruption = self._stage, self._interruption
        with stage.stretch(step) as stretch:
            with self._doing("first batch", "reading the first batch"):
                batch = stretch.next(step)
            raise_noted()
            with self._doing("compile", "compiling the train step"):
                stretch.compile(interruption)
                processes.check_same(
                    {"the number of steps made": step}
                )  # collectives do not wait for a compilation
            raise_noted()
            stretch.describe(step)
            recorder = self._recorder = self._recorder or self._start_reports(reports, step)
            recorder.start()
            if step == 0:
                state, _ = self._evaluate(recorder, state, step)
            waited = 0.0
            while not self._over(stretch, step):
                profile(self._profiling, stage.log, step, self._workdir if self._writes else None)
                step += 1
                with self._doing("step", f"step {step}"):
                    with jax.profiler.StepTraceAnnotation("train", step_num=step - 1):
                        state, metrics = stretch.dispatch(state, batch, interruption.flags())
                    self._account.dispatched(metrics)
                    recorder.step(step, interruption.read(metrics), waited=waited)
                self._report_save()
                state, improved = self._evaluate(recorder, state, step)
                if improved or stage.ended(step) or stage.saving_due(step):
                    state = stage.whole(state)
                    self._save(recorder, state, step)
                if not self._over(stretch, step):
                    with self._doing("data", f"waiting for the batch of step {step + 1}"):
                        batch = self._next(stretch, recorder, state, step)
                    waited = batch.wait
            with self._doing("step", f"step {step}"):
                recorder.flush()
            state = stage.whole(state)
            if stage.rewinding and self._spike():
                with self._doing("skipping", "reading the batches that are skipped"):
                    stage.rewinding.pass_over(step)
            elif interruption.requested and step > 0:
                self._save(recorder, state, step)
        return state, step

    def _report_save(self) -> None:
        """Note the newest checkpoint that is committed, and say if the last one has failed; waits for nothing."""
        committed = self._checkpointer.report()
        if committed and self._writes:
            attempt(workdirs.SAVED_FILE, workdirs.write_saved, self._workdir, committed)

    def _over(self, stretch: Stretch, step: int) -> bool:
        """Whether a stretch makes no further step."""
        stopped = self._interruption.requested or self._spike()
        return self._stage.ended(step) or step >= stretch.stop or bool(stopped)

    def _next(self, stretch: Stretch, recorder: Recorder, state: Any, step: int) -> Any:
        try:
            return stretch.next(step)
        except UserError:
            if processes.count() == 1:  # the others are on their way to the next step
                self._save(recorder, self._stage.whole(state), step)
            raise

    def _evaluate(self, recorder: Recorder, state: Any, step: int) -> tuple[Any, bool]:
        stage = self._stage
        if not stage.evaluation_due(step):
            return state, False
        with self._doing("step", f"step {step}"):
            recorder.flush()
        if self._spike():
            return state, False
        with (
            self._doing("evaluation", f"the evaluation after step {step}"),
            recorder.paused(compiling="" if stage.evaluation_compiled(step) else "the evaluation"),
        ):
            evaluated = stage.evaluate(state, step, recorder)
        self._report.write()
        return evaluated

    def _start_reports(self, reports: contextlib.ExitStack, step: int) -> Recorder:
        """Write what describes the run, and open what reports on it, until `reports` is closed."""
        stage, log, writers, progress = self._stage, self._stage.log, list[MetricWriter](), None
        if self._writes:
            stage.write_start(step)
            self._account.keep(self._workdir, step)
            for folder, hyperparameters in stage.metric_folders():
                writer = reports.enter_context(
                    MetricWriter(folder, resume_step=step or None, trackers=log.trackers, project=log.project)
                )
                if step == 0 and hyperparameters is not None:
                    writer.write_hyperparameters(hyperparameters)
                writers.append(writer)
            progress = reports.enter_context(Progress(stage.steps, start_step=step))
        self._signals.enter_context(self._interruption)
        return Recorder(
            writers,
            progress,
            summarise=stage.summarise,
            rates=self._rates,
            every=stage.log.every,
            last_step=stage.steps,
            log_at=stage.log_at,
            sums=self._sums,
            look=self._look,
        )

    def _look(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Look at the metrics of a step as soon as they are read; may end the run, or have it go back."""
        self._stage.guard.look(step, metrics)
        if self._stage.rewinding:
            loss = self._stage.summarise(metrics)["loss"]
            self._stage.rewinding.spikes.look(step, loss, is_finite=not metrics.get(NONFINITE))

    def _rates(self, interval: Interval) -> Mapping[str, float]:
        skipped = float(np.mean(interval.totals.get(NONFINITE, 0.0))) / interval.steps
        return {
            **self._stage.rates(interval),
            "train/goodput": self._account.log(interval.last_step, skipped=skipped),
        }

    def _save(self, recorder: Recorder, state: Any, step: int) -> None:
        with self._doing("save", f"the save after step {step}"):
            self._start_save(recorder, state, step)
        self._account.saved(step, self._checkpointer.steps)

    def _start_save(self, recorder: Recorder, state: Any, step: int) -> None:
        """Start saving a checkpoint, unless its step is a loss spike; its metrics are in the files before it is."""
        self._checkpointer.check_place()
        recorder.put()
        if self._spike():
            return
        self._stage.guard.check_params(step, state)
        first = self._stage.write_before_checkpoint if self._writes else lambda: None
        run = {
            "config": schema.as_dict(self._stage.config),
            "fingerprints": dict(self._stage.fingerprints),
            "sums": recorder.sums,
            "bad_in_a_row": self._stage.guard.in_a_row,
            **self._stage.remembered(),
        }
        self._checkpointer.save(step, state, run, first=first)
