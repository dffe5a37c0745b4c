"""The pretraining run: its parts that the loop of both stages (`pretrain.runtime.loop`) does not have."""

import contextlib
import json
import logging
import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from etils import epath

from base import schema
from base.errors import UserError
from base.set_fields import Given
from data.batches import Batch, BatchIterator, open_batches
from pretrain import phase_summary, starting_network
from pretrain.config import LogConfig, PretrainConfig
from pretrain.devices.flops import StepWork
from pretrain.devices.global_batch import abstract_batch, to_devices
from pretrain.first_words import first_words
from pretrain.job import NOTHING_SET, Job, assemble, process_rows
from pretrain.models import family_fields, huggingface
from pretrain.objective.evaluation import Evaluator
from pretrain.objective.held_out_cache import held_out_rows
from pretrain.objective.objective import Objective
from pretrain.objective.token_counts import token_counts
from pretrain.objective.train_step import make_train_step
from pretrain.optim.averages import average_of
from pretrain.optim.train_state import TrainState, abstract_state, fresh_state, state_from_params
from pretrain.origin import origin_params
from pretrain.phases import Phase, ends_of_objectives
from pretrain.report.pages import write_report
from pretrain.reports.recorder import Interval, Recorder
from pretrain.reports.training_rates import TrainingRates
from pretrain.resume import (
    RULES,
    RunState,
    best_evaluation,
    check_fingerprints,
    check_learned,
    check_network,
    objective_sums,
    of_all_processes,
    provenance,
    stream_states,
)
from pretrain.runtime import processes
from pretrain.runtime import workdir as workdirs
from pretrain.runtime.bad_numbers import Guard
from pretrain.runtime.checkpointer import Run
from pretrain.runtime.interruption import Interruption
from pretrain.runtime.loop import Loop, begun
from pretrain.runtime.loss_spikes import Spikes
from pretrain.runtime.programs import compiled
from pretrain.runtime.stage import MetricFolders

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    job: Job
    state: TrainState
    step: int
    interrupted: str
    """The signal that stopped it before its last step; empty if it finished."""
    metrics: dict[str, float]
    """The last value of each metric."""


def train(
    config: PretrainConfig,
    workdir: epath.Path,
    *,
    accept_changes: bool = False,
    given: Given = NOTHING_SET,
) -> Outcome:
    """Run the job of `config` in `workdir`, or go on with it where its newest checkpoint stands.

    Args:
      config: the run.
      workdir: the run's folder, local or gs://.
      accept_changes: resume although the config differs from the one the run was made with.
      given: the fields of the config that were set, and where.

    Raises:
      UserError: bad config, bad input, or a workdir that holds another run.
    """
    kept = config.checkpoint
    with begun(
        workdir, config, RULES, keep=kept.keep, verify=kept.verify, given=given, accept_changes=accept_changes
    ) as run:
        # ---- tokenizer, mesh, model, optimiser, phases: all checked before anything is compiled -------------
        saved = run.saved
        job = assemble(run.config, workdir, saved, given)
        for note in job.notes if processes.is_first() else ():
            logger.info("%s", note)
        if saved is not None:
            check_network(job, workdir)
            check_learned(saved, job.phases)
            check_fingerprints(job, saved["fingerprints"], accept=accept_changes)
        history = provenance(saved, job, changed=bool(run.changes))

        with jax.set_mesh(job.mesh), jax.default_matmul_precision(config.matmul_precision):
            stage, report = _Pretraining(job, workdir, history), partial(write_report, workdir)
            ended = Loop(stage, workdir, run.checkpointer, run.account, report).run()
    return Outcome(job, ended.state, ended.step, ended.interrupted, ended.metrics)


class _Pretraining:
    """The stage of a pretraining run: see `pretrain.runtime.stage.Stage`."""

    def __init__(self, job: Job, workdir: epath.Path, history: Mapping[str, Any]):
        self.job, self.config, self.mesh = job, job.given, job.mesh
        self.log: LogConfig = job.given.log
        self.log_at = ends_of_objectives(job.phases)
        self.fingerprints = job.fingerprints
        self.abstract = abstract_state(job.model, job.optimizer, job.mesh)
        self.run = RunState()
        self.guard = Guard(job.given.on_nonfinite, job.given.max_skipped)
        self.spikes = Spikes(job.given.spike, nonfinite=job.given.on_nonfinite == "rewind")
        self.rewinding = self
        self.steps_at_hand: _PhaseSteps | None = None
        """The stretch that is open."""
        self.program: tuple[int, jax.stages.Compiled] | None = None
        """The compiled step of the phase at hand, and the phase's number."""
        self.described = False
        """Whether the network has been described; later phases say only what is their own."""
        self._workdir, self._history = workdir, history
        self._rates = TrainingRates(StepWork(job.encoder), job.mesh.size, job.peak, job.measured_peak)
        self._objective: Objective = job.objectives[0]
        """What the stretch at hand learns."""
        self._network = job.phases[-1].network(job.encoder)
        """That of the stretch at hand, or of the end."""
        self._looked_at: set[str] = set()
        """Data whose held-out documents have been counted; phases that share them are warned of once."""
        self._evaluators: dict[int, Evaluator] = {}
        """By the number of a phase that is not complete; {} in a run without evaluations."""

    @property
    def steps(self) -> int:
        """Steps of the whole run. A run of epochs makes fewer where batches are skipped."""
        return self.job.steps - (self.spikes.skipped if self.config.epochs else 0)

    def first_state(self) -> TrainState:
        """Make the state of step 0: the params of init_from, or fresh ones."""
        job = self.job
        if self.config.init_from:
            logger.info("starting from %s", self.config.init_from)
            return state_from_params(origin_params(job), job.optimizer, self.abstract)
        return fresh_state(job.model, job.optimizer, self.abstract, job.config.seed, first_words(job))

    def recall(self, run: Run) -> Mapping[str, Any]:
        """Take the streams' positions and the best evaluation from a checkpoint; returns its sums."""
        self.spikes.recall(run)
        return self._recalled(run)

    def pass_over(self, step: int) -> None:
        """Have the run go on after the batches that are skipped for a spike; `step` steps were dispatched."""
        steps_at_hand = self.steps_at_hand
        assert steps_at_hand is not None
        last = self.spikes.last(self.steps if self.config.epochs else None)
        self.run.data[steps_at_hand.data_key] = steps_at_hand.states_after(last, step)

    def go_back(self, run: Run | None) -> tuple[str, Mapping[str, Any]]:
        """Go back to a checkpoint in all but the streams' positions; returns the message, and the sums."""
        message = self.spikes.go_back(run, self.steps if self.config.epochs else None)
        passed, self.run = self.run.data, RunState()
        sums = self._recalled(run) if run else {}
        self.run.data |= passed
        start = run["step"] if run else 0
        self._make_evaluators(start)
        return message, sums

    def _recalled(self, run: Run) -> Mapping[str, Any]:
        self.run = RunState(stream_states(run, self.job), best_evaluation(run, self.job))
        return objective_sums(run, self.config)

    def remembered(self) -> dict[str, Any]:
        """What a checkpoint says of the run."""
        return {
            "steps": self.job.steps,
            "spikes": self.spikes.remembered(),
            "data": {key: of_all_processes(states) for key, states in self.run.data.items()},
            "best": self.run.best,
            **self._history,
            "dropout": starting_network.dropout(self.job.encoder),
            "rotary": family_fields.rotary_bases(self._network),
            "peak": self._rates.peak and self._rates.peak._asdict(),
        }

    def ended(self, step: int) -> bool:
        """Whether all steps are made."""
        return step >= self.steps

    @contextlib.contextmanager
    def stretch(self, step: int) -> Iterator["_PhaseSteps"]:
        """Open the phase that step number `step` (from 0) belongs to."""
        if not self._evaluators:
            self._make_evaluators(step)
        phase = next(phase for phase in self.job.phases if step < phase.stop)
        self._objective = self.job.objectives[phase.index]
        self._network = phase.network(self.job.encoder)
        if step == phase.start:
            self.run.best = None if step == phase.whole.start else self.run.best  # other rows do not compare
            self.spikes.begin()
        with open_batches(
            phase.data,
            self.job.tokenizer.encode,
            self.job.tokenizer.special,
            seed=self.config.seed,
            seq_len=phase.seq_len,
            global_batch=phase.global_batch,
            rows=process_rows(self.job, phase),
            states=self.run.data.get(self.job.data_keys[phase.index]),
            epochs=self.config.epochs,
        ) as batches:
            self.steps_at_hand = _PhaseSteps(self, phase, batches)
            yield self.steps_at_hand

    def write_start(self, step: int) -> None:
        """Write the config, and the network of a run that begins."""
        workdirs.write_config(self._workdir, self.config)
        if step == 0:
            self.write_before_checkpoint()

    def write_before_checkpoint(self) -> None:
        """Write the network of the kept checkpoints and of all later checkpoints."""
        text = json.dumps(huggingface.config_dict(self._network), indent=2) + "\n"
        workdirs.write_text(self._workdir / workdirs.MODEL_FILE, text)

    def metric_folders(self) -> MetricFolders:
        """The workdir."""
        return [(self._workdir, schema.flatten(schema.as_dict(self.config)))]

    def summarise(self, sums: Mapping[str, Any]) -> Mapping[str, float]:
        """Make losses and scores of sums, which are of steps with one objective."""
        return self._objective.summarise(sums)

    def rates(self, interval: Interval) -> dict[str, float]:
        """Make speeds of an interval."""
        return self._rates.of(interval)

    def evaluation_due(self, step: int) -> bool:
        """Whether to evaluate: every `config.eval.every` steps, at the end, and at step 0 if it is not random."""
        if self._evaluator_at(step) is None:
            return False
        every = self.config.eval.every
        return bool(self.config.init_from) if step == 0 else self.ended(step) or step % every == 0

    def evaluate(self, state: TrainState, step: int, recorder: Recorder) -> tuple[TrainState, bool]:
        """Evaluate on held-out rows and log; returns the state, and whether this is the best so far."""
        evaluator = self._evaluator_at(step)
        assert evaluator is not None
        if not evaluator.compiled:
            evaluator.compile(state.params)
            processes.check_same({"the number of steps made": step})  # collectives do not wait so long
        values = processes.same_as_first(evaluator(state.params, average_of(state.opt_state)))
        recorder.evaluation(step, values)
        loss, best = values["eval/loss"], self.run.best
        # Step 0 has no checkpoint, so it is never the best.
        improved = step > 0 and math.isfinite(loss) and (best is None or loss < best["eval/loss"])
        if improved:
            self.run.best = {"step": step, **values}
        return state, improved

    def whole(self, state: TrainState) -> TrainState:
        """The state: steps take it as it is."""
        return state

    def saving_due(self, step: int) -> bool:
        """Whether to save after so many steps."""
        return step % self.config.checkpoint.every == 0

    def finish(self, step: int, *, before: bool) -> None:
        """Write the finish marker. If the run had ended before this call, write the settings of its model card too."""
        if before:
            logger.info("this run is complete: %d steps", step)
            if step > self.steps:
                logger.warning("config asks for %d steps only; the run has made more", self.steps)
        if processes.is_first():
            workdirs.write_finished(self._workdir, step, self.steps)
            if before:
                workdirs.write_card(self._workdir, self.config)
                if not workdirs.has_network(self._workdir):
                    self.write_before_checkpoint()

    def evaluation_compiled(self, step: int) -> bool:
        """Whether the evaluation of the phase at hand has been compiled."""
        evaluator = self._evaluator_at(step)
        return evaluator is not None and evaluator.compiled

    def _evaluator_at(self, step: int) -> Evaluator | None:
        """The evaluator of the phase with step number `step` (from 1)."""
        return self._evaluators.get(next(each.number for each in self.job.phases if step <= each.stop))

    def _make_evaluators(self, step: int) -> None:
        """Make the evaluators that are missing, of the phases that are not complete after so many steps."""
        for phase in self.job.phases if self.config.eval.every else ():
            if step < phase.stop and phase.number not in self._evaluators:
                self._evaluators[phase.number] = self._evaluator(phase)

    def _evaluator(self, phase: Phase) -> Evaluator:
        job, place = self.job, phase.place("data")
        most = self.config.eval.steps * phase.whole.global_batch
        rows = held_out_rows(self._workdir, phase, job.tokenizer, most, warn=place not in self._looked_at)
        self._looked_at.add(place)
        objective = job.evaluations[phase.index]
        counts = token_counts(self._workdir, phase, job.tokenizer, with_ends=objective.causal)
        return Evaluator(job.models[phase.index], objective, phase, job.mesh, rows, counts)


class _PhaseSteps:
    """The steps of a phase: see `pretrain.runtime.stage.Stretch`."""

    def __init__(self, stage: _Pretraining, phase: Phase, batches: BatchIterator):
        self.stop = phase.stop
        self._stage, self._phase, self._batches = stage, phase, batches
        self._step: jax.stages.Compiled | None = None
        self._is_described = False
        self._read: deque[dict[str, Any]] = deque(maxlen=2)
        """Where the streams stood after the batches of the last two steps that were dispatched."""

    @property
    def data_key(self) -> str:
        """The corpus that the steps read, by `Job.data_keys`."""
        return self._stage.job.data_keys[self._phase.index]

    def states_after(self, last: int, step: int) -> dict[str, Any]:
        """Where the streams stand after the batch of step `last`, when `step` were dispatched (at most `last` + 1)."""
        for number in range(step, last):
            self._read.append(self.next(number).states)
        return self._read[-1] if last >= step else self._read[-2]

    def next(self, step: int) -> Batch:
        """Read the batch of step number `step` (from 0)."""
        try:
            return next(self._batches)
        except StopIteration:
            raise UserError(
                f"the corpus ended at step {step} of {self._stage.steps}: it has fewer rows than were counted; "
                "set config.steps instead of config.epochs"
            ) from None

    def compile(self, interruption: Interruption) -> None:
        """Compile the step ahead of time, so that its memory is known before it is made."""
        stage, job, phase = self._stage, self._stage.job, self._phase
        if stage.program is not None and stage.program[0] == phase.index:  # the run went back
            self._step, self._is_described = stage.program[1], True
            return
        stage.program = None
        step = make_train_step(
            job.models[phase.index],
            job.optimizer,
            job.schedule,
            job.objectives[phase.index],
            phase,
            seed=job.config.seed,
            dropout_implementation=job.dropout_implementation,
            skip_bad=job.config.on_nonfinite == "skip",
        )
        batch = abstract_batch(job.mesh, phase.global_batch, phase.seq_len) | interruption.abstract_flags()
        what = f"the train step for {phase.global_batch} rows of {phase.seq_len} tokens"
        is_rotary = job.models[phase.index].config.family.is_rotary
        self._step = compiled(interruption.carried_by(step), stage.abstract, batch, what, is_rotary)
        stage.program = phase.index, self._step

    def describe(self, step: int) -> None:
        """Show what the phase is about to do."""
        if self._is_described or not processes.is_first():
            return
        stage, programs = self._stage, [self._step] if self._step else []
        again = stage.described
        if step == self._phase.start and (boundary := phase_summary.boundary(stage.job, self._phase)):
            logger.info("%s", boundary)
        phase_summary.show(
            *(stage.job, self._phase, stage.abstract, programs, stage._workdir),
            start_step=step,
            steps=stage.steps,
            again=again,
        )
        stage.described = True

    def dispatch(
        self, state: TrainState, batch: Batch, flags: Mapping[str, jax.Array]
    ) -> tuple[TrainState, Mapping[str, Any]]:
        """Have the devices make a step, and note where the streams stand after its batch."""
        assert self._step is not None
        stage, phase = self._stage, self._phase
        arrays = to_devices(batch.arrays, stage.mesh, phase.global_batch, stage.job.encoder.windows)
        state, metrics = self._step(state, {**arrays, **flags})
        stage.run.data[self.data_key] = batch.states
        self._read.append(batch.states)
        return state, {**metrics, "places": phase.global_batch * phase.seq_len}
