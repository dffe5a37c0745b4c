"""The training run, from top to bottom: resume or start, then phase by phase, step by step."""

import contextlib
import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from etils import epath

from base import schema, terminal
from base.errors import UserError
from base.set_fields import Given, as_begun
from data.batches import Batch, BatchIterator, open_batches
from pretrain import given_network
from pretrain.config import PretrainConfig
from pretrain.devices import hardware
from pretrain.devices.flops import StepWork
from pretrain.devices.global_batch import abstract_batch, to_devices
from pretrain.job import NOTHING_SET, Job, assemble, origin_params, process_rows
from pretrain.models import huggingface
from pretrain.objective.evaluation import Evaluator
from pretrain.objective.held_out_cache import held_out_rows
from pretrain.objective.masking import predictions_per_row
from pretrain.objective.train_step import lower, make_train_step
from pretrain.optim.train_state import TrainState, abstract_state, fresh_state, state_from_params
from pretrain.phases import Phase
from pretrain.reports import start_summary
from pretrain.reports.metric_writer import MetricWriter
from pretrain.reports.progress_line import Progress
from pretrain.reports.recorder import Recorder, Sums
from pretrain.resume import (
    RunState,
    check_fingerprints,
    check_network,
    of_all_processes,
    provenance,
    stream_states,
)
from pretrain.runtime import processes
from pretrain.runtime import workdir as workdirs
from pretrain.runtime.checkpoint import Checkpointer
from pretrain.runtime.interruption import Interruption

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
    # ---- workdir, and what it holds ---------------------------------------------------------------------
    with workdirs.opened(workdir, config, keep=config.checkpoint.keep) as checkpointer:
        saved, changes = checkpointer.read_run(), {}
        if saved is not None:
            config = as_begun(config, saved["config"], given)
            changes = workdirs.check_unchanged(saved["config"], config, accept=accept_changes)
            for name, (old, new) in changes.items():
                logger.warning("config.%s changes from %r to %r at step %d", name, old, new, saved["step"])

        # ---- tokenizer, mesh, model, optimiser, phases: all checked before anything is compiled -------------
        job = assemble(config, workdir, saved, given)
        for note in job.notes if processes.is_first() else ():
            logger.info("%s", note)
        if saved is not None:
            check_network(job, workdir)
            check_fingerprints(job, saved["fingerprints"], accept=accept_changes)
        history = provenance(saved, job, changed=bool(changes))

        # ---- state, then step by step ---------------------------------------------------------------------
        with jax.set_mesh(job.mesh), jax.default_matmul_precision(config.matmul_precision):
            return _Trainer(job, workdir, checkpointer, history).run()


class _Trainer:
    """One call of `train`, from its start or its checkpoint to its end."""

    def __init__(
        self,
        job: Job,
        workdir: epath.Path,
        checkpointer: Checkpointer,
        history: Mapping[str, Any],
    ):
        self._job = job
        self._workdir = workdir
        self._given = job.given
        self._checkpointer = checkpointer
        self._history = history
        self._interruption = Interruption(job.mesh)
        self._abstract = abstract_state(job.model, job.optimizer, job.mesh)
        self._run = RunState()
        self._recorder: Recorder | None = None
        self._profiling = contextlib.ExitStack()
        self._writes = processes.is_first()

    def run(self) -> Outcome:
        """Resume or start, then go through the phases that are left."""
        # ---- state: this workdir's newest whole checkpoint, else init_from, else fresh ------------------------------
        state, step = self._first_state()
        if step >= self._job.steps:
            logger.info("this run is complete: %d steps", step)
            if step > self._job.steps:
                logger.warning("config asks for %d steps only, which lie behind it", self._job.steps)
            self._note_finished(step)
            if self._writes:
                workdirs.write_card(self._workdir, self._given)
            return Outcome(self._job, state, step, "", {})
        if self._writes:
            (self._workdir / workdirs.FINISHED_FILE).unlink(missing_ok=True)
        evaluators = {phase.index: self._evaluator(phase) for phase in self._job.phases if step < phase.stop}

        # ---- phases -------------------------------------------------------------------------------------------------
        with self._profiling, contextlib.ExitStack() as reports:
            for phase in self._job.phases:
                if step < phase.stop and not self._interruption.requested:
                    state, step = self._run_phase(phase, state, step, evaluators[phase.index], reports)
            self._checkpointer.wait()  # while signals are still only noted
            if finished := step >= self._job.steps:
                self._note_finished(step)
        metrics = dict(self._recorder.last) if self._recorder else {}
        interrupted = "" if finished else self._interruption.requested
        return Outcome(self._job, state, step, interrupted, metrics)

    def _note_finished(self, step: int) -> None:
        if self._writes:
            workdirs.write_finished(self._workdir, step, self._job.steps)

    def _start_reports(self, reports: contextlib.ExitStack, step: int) -> Recorder:
        """Write what describes the run, and open what reports on it, until `reports` is closed."""
        writer, progress = None, None
        if self._writes:
            workdirs.write_config(self._workdir, self._given)
            if step == 0:
                self._write_network()
            writer = reports.enter_context(MetricWriter(self._workdir, resume_step=step or None))
            if step == 0:
                writer.write_hyperparameters(schema.flatten(schema.as_dict(self._given)))
            progress = reports.enter_context(Progress(self._job.steps, start_step=step))
        reports.enter_context(self._interruption)
        return Recorder(
            writer,
            progress,
            StepWork(self._job.encoder),
            every=self._given.log.every,
            last_step=self._job.steps,
            peak_flops=self._job.peak_flops,
            sums=self._run.sums,
        )

    def _write_network(self) -> None:
        """Write what the checkpoints that are kept are of, and those that are saved from here on."""
        text = json.dumps(huggingface.config_dict(self._job.encoder), indent=2) + "\n"
        workdirs.write_text(self._workdir / workdirs.MODEL_FILE, text)

    def _first_state(self) -> tuple[TrainState, int]:
        restored = self._checkpointer.restore(self._abstract)
        processes.check_same({"the newest checkpoint that can be read": restored and restored[1]["step"]})
        if restored is not None:
            state, run = restored
            sums = Sums(**{"maskable_sum": math.nan, **run["sums"]})  # older runs have not counted it
            self._run = RunState(stream_states(run, self._job.data_keys), run["best"], sums)
            logger.info("resumed at step %d", run["step"])
            return state, int(run["step"])
        job = self._job
        if self._given.init_from:
            logger.info("starting from %s", self._given.init_from)
            return state_from_params(origin_params(job), job.optimizer, self._abstract), 0
        return fresh_state(job.model, job.optimizer, self._abstract, job.config.seed), 0

    def _run_phase(
        self,
        phase: Phase,
        state: TrainState,
        step: int,
        evaluator: Evaluator | None,
        reports: contextlib.ExitStack,
    ) -> tuple[TrainState, int]:
        """Train from step number `step` (steps done so far) to the end of the phase, or to an interruption."""
        job, config, key = self._job, self._given, self._job.data_keys[phase.index]
        with open_batches(
            phase.data,
            job.tokenizer.encode,
            job.tokenizer.special,
            seed=config.seed,
            seq_len=phase.seq_len,
            global_batch=phase.global_batch,
            rows=process_rows(job, phase),
            states=self._run.data.get(key),
            epochs=config.epochs,
        ) as batches:
            batch = next(batches)  # what is wrong with the text shows before anything is compiled or written
            compiled = self._compile(phase)
            self._describe(phase, step, compiled)
            recorder = self._recorder = self._recorder or self._start_reports(reports, step)
            recorder.start()
            if step == phase.start:
                self._run.best = None  # rows of another length: evaluations that do not compare
            waited = 0.0
            while step < phase.stop and not self._interruption.requested:
                self._profile(step)
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    arrays = to_devices(batch.arrays, job.mesh, phase.global_batch)
                    state, metrics = compiled(state, arrays | self._interruption.flags())
                self._run.data[key] = batch.states
                step += 1
                recorder.step(step, self._interruption.read(metrics), waited=waited)
                last, improved = step == job.steps, False
                if evaluator is not None and (last or step % config.eval.every == 0):
                    with recorder.paused(compiling="" if evaluator.compiled else "the evaluation"):
                        improved = self._evaluate(evaluator, recorder, state, step)
                if last or improved or step % config.checkpoint.every == 0:
                    self._save(recorder, state, step)
                if step < phase.stop and not self._interruption.requested:
                    try:
                        batch = self._next(batches, step)
                    except UserError:
                        if processes.count() == 1:  # the others are on their way to the next step
                            self._save(recorder, state, step)
                        raise
                    waited = batch.wait
            recorder.flush()
            if self._interruption.requested and step > 0:
                self._save(recorder, state, step)
        return state, step

    def _next(self, batches: BatchIterator, step: int) -> Batch:
        try:
            return next(batches)
        except StopIteration:
            raise UserError(
                f"the corpus ended at step {step} of {self._job.steps}: it has fewer rows than were counted; "
                "set config.steps instead of config.epochs"
            ) from None

    def _compile(self, phase: Phase) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Any]]:
        job = self._job
        step = make_train_step(
            job.model,
            job.optimizer,
            job.schedule,
            job.tables,
            phase,
            seed=job.config.seed,
            dropout_implementation=job.dropout_implementation,
        )
        batch = (
            abstract_batch(job.mesh, phase.global_batch, phase.seq_len) | self._interruption.abstract_flags()
        )
        logger.info(
            "compiling the train step for %d rows of %d tokens ...", phase.global_batch, phase.seq_len
        )
        start = time.perf_counter()
        compiled = lower(self._interruption.carried_by(step), self._abstract, batch).compile()
        logger.info("compiled the train step in %.1f s", time.perf_counter() - start)
        return compiled

    def _evaluator(self, phase: Phase) -> Evaluator | None:
        job, config = self._job, self._given.eval
        if config.every == 0:
            return None
        rows = held_out_rows(self._workdir, phase, job.tokenizer, config.steps * phase.global_batch)
        return Evaluator(job.model, job.tables, phase, job.mesh, rows)

    def _evaluate(self, evaluator: Evaluator, recorder: Recorder, state: TrainState, step: int) -> bool:
        """Evaluate and log; True if this is the best so far."""
        values = processes.same_as_first(evaluator(state.params))
        recorder.evaluation(step, values)
        loss = values["eval/loss"]
        improved = math.isfinite(loss) and (self._run.best is None or loss < self._run.best["eval/loss"])
        if improved:
            self._run.best = {"step": step, **values}
        return improved

    def _save(self, recorder: Recorder, state: TrainState, step: int) -> None:
        """Start saving a checkpoint; its metrics are in the file before it is."""
        recorder.put()
        if self._writes:
            self._write_network()
        run = {
            "config": schema.as_dict(self._given),
            "steps": self._job.steps,
            "data": {key: of_all_processes(states) for key, states in self._run.data.items()},
            "best": self._run.best,
            "sums": dataclasses.asdict(recorder.sums),
            "fingerprints": dict(self._job.fingerprints),
            **self._history,
            "dropout": given_network.dropout(self._job.encoder),
            "peak": self._job.peak and self._job.peak._asdict(),
        }
        self._checkpointer.save(step, state, run)

    def _profile(self, step: int) -> None:
        """Start and stop the profiler before the step number `step` (from 0), as config.log says."""
        log = self._given.log
        if log.profile_steps and step == log.profile_start and self._writes:
            jax.profiler.start_trace(str(self._workdir / "profile"))
            self._profiling.callback(jax.profiler.stop_trace)
        if step == log.profile_start + log.profile_steps:
            self._profiling.close()

    def _describe(self, phase: Phase, step: int, compiled: Any) -> None:
        """Show what the phase is about to do."""
        if not self._writes:
            return
        job, predictions = self._job, predictions_per_row(phase.masking_rate, phase.seq_len)
        rows = phase.global_batch
        plan = start_summary.Plan(
            steps=job.steps,
            start_step=step,
            global_batch=rows,
            seq_len=phase.seq_len,
            predictions=predictions,
            grad_accum=phase.grad_accum,
            dtype=job.config.dtype,
            step_flops=StepWork(job.encoder).flops(
                tokens=rows * phase.seq_len, attended=rows * phase.seq_len**2, predictions=rows * predictions
            ),
            peak_flops=job.peak_flops,
            steps_per_epoch=job.epoch_steps // job.config.epochs
            if job.epoch_steps and job.config.epochs
            else None,
        )
        memory = start_summary.Memory(
            params=start_summary.bytes_per_device(self._abstract.params),
            optimizer=start_summary.bytes_per_device(self._abstract.opt_state),
            temporary=compiled.memory_analysis().temp_size_in_bytes,
            limit=hardware.device_memory(job.mesh.local_devices[0]),
        )
        terminal.console().print(
            start_summary.overview(self._abstract.params, job.mesh, plan, memory, processes=processes.count())
        )
