"""The fine-tuning run: its parts that the loop of both stages (`pretrain.runtime.loop`) does not have."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from base import terminal
from base.set_fields import Given
from finetune.classifier.inference import check_inference
from finetune.config import FinetuneConfig
from finetune.job import Job, assemble
from finetune.population.early_stopping import Tracking, better_of, own_names
from finetune.population.evaluation import Scores, evaluate, mean_over_members
from finetune.population.in_turn import Apart, joined
from finetune.population.recorder import classification_metrics, member_names, metric_folders, speed
from finetune.population.state import PopulationState, abstract_state, first_state
from finetune.population.train_step import keep_better
from finetune.report.pages import RESULTS_FILE, write_report
from finetune.results.own_metrics import ComputeMetrics
from finetune.resume import check_same_input, rules
from finetune.run_steps import Programs, RunSteps
from pretrain.job import NOTHING_SET
from pretrain.optim.averages import average_of
from pretrain.reports.recorder import Interval, Recorder
from pretrain.runtime import changes, processes
from pretrain.runtime.bad_numbers import Guard
from pretrain.runtime.checkpointer import Run
from pretrain.runtime.loop import Loop, begun
from pretrain.runtime.stage import MetricFolders

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of a run while it trains."""

    step: int
    """Steps so far."""
    epoch: float
    """Passes over the training examples so far."""
    members: tuple[Mapping[str, float], ...]
    """The metrics of each run that is trained, in the order of config.members."""

    @property
    def mean(self) -> dict[str, float]:
        """Each metric's mean over the runs."""
        return mean_over_members(self.members)


AfterEvaluation = Callable[[Evaluation], bool]
"""Is called after an evaluation; True ends the run there."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    job: Job
    state: PopulationState
    step: int
    interrupted: str
    """The signal that stopped it before its end; empty if it finished."""
    tracking: Tracking
    seconds: float
    """Wall time of training and evaluating, all calls of the run together."""
    requested: str = ""
    """The signal that came, even if it came in the last step. After it, no other run should begin."""

    @property
    def params(self) -> Any:
        """What the run ends with: every member's best params, or its last."""
        return self.state.best if self.job.config.eval.restore_best else self.state.params


def train(
    config: FinetuneConfig,
    workdir: epath.Path,
    after_evaluation: AfterEvaluation | None = None,
    *,
    accept_changes: bool = False,
    given: Given = NOTHING_SET,
    compute_metrics: ComputeMetrics | None = None,
    look: bool = True,
    programs: Programs | None = None,
    assembled: Callable[[Job], None] | None = None,
) -> Outcome:
    """Run the job of `config` in `workdir`, or go on with it where its newest checkpoint stands.

    Args:
      config: the run's.
      workdir: its folder.
      after_evaluation: called after every evaluation that this call makes; may end the run.
      accept_changes: resume although the config differs from the one the run was made with.
      given: the fields of the config that were set, and where.
      compute_metrics: metrics of the user's own, see `finetune.results.own_metrics`.
      look: whether to show the first training examples of a run that begins.
      programs: what is compiled already; other runs of this process may have the same.
      assembled: called with the parts of the run before it is trained.

    Raises:
      UserError: bad config, bad input, or a workdir that holds another run.
    """
    processes.from_first(lambda: check_inference(config, workdir))  # the first writes and runs the ONNX file
    with begun(
        workdir,
        config,
        rules(),
        keep=config.checkpoint.keep,
        verify=config.checkpoint.verify,
        given=given,
        accept_changes=accept_changes,
    ) as run:
        saved = run.saved
        job = assemble(run.config, compute_metrics)
        processes.check_same({f"the fingerprint of {name}": each for name, each in job.fingerprints.items()})
        if saved is not None:
            changes.check_unchanged(rules(job.room), saved["config"], run.config, accept=accept_changes)
            check_same_input(saved["fingerprints"], job, workdir, accept=accept_changes)
        elif look and processes.is_first():
            for line in job.look():
                terminal.say(line, error=True)
        if assembled is not None:
            assembled(job)
        if config.log.profile_steps and config.log.profile_start >= job.steps:
            logger.info(
                "without effect: config.log.profile_start=%d; the run ends before, at step %d",
                *(config.log.profile_start, job.steps),
            )
        with jax.set_mesh(job.mesh), jax.default_matmul_precision(config.matmul_precision):
            stage = _Finetuning(job, workdir, after_evaluation, programs or Programs())
            ended = Loop(stage, workdir, run.checkpointer, run.account, partial(write_report, workdir)).run()
    return Outcome(
        job, ended.state, ended.step, ended.interrupted, stage.tracking, stage.seconds, ended.requested
    )


class _Finetuning:
    """The stage of a fine-tuning run: see `pretrain.runtime.stage.Stage`."""

    def __init__(
        self, job: Job, workdir: epath.Path, after_evaluation: AfterEvaluation | None, programs: Programs
    ):
        self.log_at: tuple[int, ...] = ()
        self.job, self.config, self.log = job, job.config, job.config.log
        self.mesh, self.steps, self.fingerprints = job.mesh, job.steps, job.fingerprints
        self.abstract = abstract_state(job.classifier, job.optimizer, len(job.config.members), job.mesh)
        self.guard = Guard(job.config.on_nonfinite, job.config.max_skipped, member_names(job))
        self.rewinding = None
        self.tracking = Tracking(own_metrics=own_names(job.data.task))
        self._workdir, self._after_evaluation, self._programs = workdir, after_evaluation, programs
        self._begin = time.perf_counter()
        self._predictor = programs.predictor(job)
        self._evaluated = False
        layout = jax.tree.map(lambda leaf: leaf.sharding, self.abstract.best)  # as the compiled steps take it
        self._keep_better = jax.jit(keep_better, donate_argnums=0, out_shardings=layout)

    @property
    def seconds(self) -> float:
        """Wall time of the run, all calls together."""
        return time.perf_counter() - self._begin

    def first_state(self) -> PopulationState:
        """Make the state of step 0: the checkpoint's params for every member, and heads of their own."""
        job = self.job
        return first_state(
            job.classifier, job.params, job.fresh_head, job.config.members, job.optimizer, self.abstract
        )

    def recall(self, run: Run) -> Mapping[str, Any]:
        """Take the history of evaluations from a checkpoint; returns its sums."""
        self.tracking = Tracking.recalled(run["tracking"], self.job.data.task)
        self._begin -= run["seconds"]
        return run.get("sums") or {}

    def remembered(self) -> dict[str, Any]:
        """What a checkpoint says of the run."""
        return {"tracking": self.tracking.as_dict(), "seconds": self.seconds}

    def ended(self, step: int) -> bool:
        """Whether there is nothing left to train: all steps are made, or every run has stopped early."""
        stopped = self.tracking.stopped(self.config.eval.patience)
        return step >= self.steps or self.tracking.told_to_end or (bool(stopped) and all(stopped))

    @contextlib.contextmanager
    def stretch(self, step: int) -> Iterator[RunSteps]:
        """The whole run."""
        yield RunSteps(self.job, self.abstract, self._programs, self._workdir, step)

    def write_start(self, step: int) -> None:
        """Remove the results of an earlier end: launchers take them for the finish marker of older runs."""
        (self._workdir / RESULTS_FILE).unlink(missing_ok=True)

    def write_before_checkpoint(self) -> None:
        """Nothing."""

    def metric_folders(self) -> MetricFolders:
        """The workdir, and a folder of each run where there are several."""
        return metric_folders(self.job, self._workdir)

    def summarise(self, sums: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make losses and scores [M] of sums [M]."""
        return classification_metrics(sums, classes=self.job.kind.accuracy)

    def rates(self, interval: Interval) -> dict[str, float]:
        """Make speeds of an interval."""
        return speed(interval)

    def evaluation_due(self, step: int) -> bool:
        """Whether to evaluate after so many steps."""
        return step > 0 and self._due(step, self.config.eval.every)

    def evaluation_compiled(self, step: int) -> bool:
        """Whether an evaluation has been made."""
        return self._evaluated

    def evaluate(
        self, state: PopulationState | Apart, step: int, recorder: Recorder
    ) -> tuple[PopulationState, bool]:
        """Evaluate every member, log, and keep the params of those that are better than ever.

        Where there is an average of the weights, the better of the two is a member's candidate.
        """
        job, state = self.job, self.whole(state)
        values = self._scores(state.params)
        shown, chosen = values, [False] * len(values)
        average = average_of(state.opt_state)
        if average is not None:
            layout = jax.tree.map(lambda leaf: leaf.sharding, self.abstract.params)
            average = jax.device_put(average, layout)
            of_average = self._scores(average)
            shown = [own | _prefixed("average_", theirs) for own, theirs in zip(values, of_average)]
            values, chosen = better_of(job.metric, values, of_average)
        self._evaluated = True
        epoch = step / job.plan.steps
        better = self.tracking.add(step, epoch, values, job.metric, self.config.eval.patience)
        recorder.evaluation(
            step, _prefixed("eval/", mean_over_members(shown)), [_prefixed("eval/", each) for each in shown]
        )
        if self._after_evaluation is not None:
            evaluation = Evaluation(step, epoch, tuple(values))
            self.tracking.told_to_end = bool(self._after_evaluation(evaluation))  # JSON knows no numpy.bool
        for params, is_average in ((state.params, False), (average, True)):
            improved = [now and which == is_average for now, which in zip(better, chosen)]
            if any(improved):
                best = self._keep_better(state.best, params, jnp.array(improved))
                state = dataclasses.replace(state, best=best)
        return state, False  # the best params are part of the state

    def _scores(self, params: Any) -> list[Scores]:
        """The metrics of each member's params."""
        job = self.job
        return processes.same_as_first(evaluate(self._predictor, params, job.evaluations, job.data.task))

    def whole(self, state: PopulationState | Apart) -> PopulationState:
        """The population with its axis M, as evaluations and checkpoints take it."""
        return joined(state)

    def saving_due(self, step: int) -> bool:
        """Whether to save after so many steps."""
        return self._due(step, self.config.checkpoint.every)

    def finish(self, step: int, *, before: bool) -> None:
        """Nothing: `finetune.results.final_outputs` writes the outputs of a run, with the finish marker last."""

    def _due(self, step: int, every: int) -> bool:
        """Whether an action is due after this step that is due every `every` steps (0: epoch) and at the end."""
        return step % (every or self.job.plan.steps) == 0 or step == self.steps


def _prefixed(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in values.items()}
