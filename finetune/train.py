"""The fine-tuning run, from top to bottom: resume or start, epoch by epoch, evaluate, keep the best, write results."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from base import schema
from base.command_line import differences
from base.errors import UserError
from finetune.classifier.inference import check_inference
from finetune.config import FinetuneConfig, length_of
from finetune.job import Job, assemble
from finetune.population.early_stopping import Tracking
from finetune.population.evaluation import Predictor, evaluate, mean_over_members
from finetune.population.recorder import Recorder
from finetune.population.state import (
    PopulationState,
    abstract_state,
    batch_shardings,
    first_state,
    to_devices,
)
from finetune.population.train_step import keep_better, make_train_step, schedule_of
from finetune.texts.batching import rows
from finetune.unused_fields import unused_fields
from pretrain.devices.mesh import sharding
from pretrain.runtime import processes
from pretrain.runtime import workdir as workdirs
from pretrain.runtime.checkpoint import Checkpointer
from pretrain.runtime.interruption import Interruption

logger = logging.getLogger(__name__)

# Fields that may change on resume: they leave every step and every evaluation as it would have been.
SAFE_TO_CHANGE = (
    "log.",
    "checkpoint.",
    "card.",
    "compilation_cache",
    "distributed",
    "inference",
    "eval.batch",
    "eval.tests",
    "mesh.",
    "search.",
    "benchmark.",
)

AfterEvaluation = Callable[[float, Mapping[str, float]], bool]
"""Takes the passes over the examples so far and each metric's mean over the runs; True ends the run there."""


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
    """The signal that came, also where it came in the last step: no other run should be begun."""

    @property
    def params(self) -> Any:
        """What the run ends with: every member's best params, or its last."""
        return self.state.best if self.job.config.eval.restore_best else self.state.params


def train(
    config: FinetuneConfig, workdir: epath.Path, after_evaluation: AfterEvaluation | None = None
) -> Outcome:
    """Run the job of `config` in `workdir`, or go on with it where its newest checkpoint stands.

    Args:
      config: the run's.
      workdir: its folder.
      after_evaluation: called after every evaluation that this call makes; may end the run.

    Raises:
      UserError: bad config, bad input, or a workdir that holds another run.
    """
    processes.from_first(lambda: check_inference(config, workdir))  # which writes and runs the ONNX file
    with workdirs.opened(workdir, config, keep=config.checkpoint.keep) as checkpointer:
        saved = checkpointer.read_run()
        if saved is not None:
            check_unchanged(saved["config"], config)
        job = assemble(config)
        processes.check_same({f"the fingerprint of {name}": each for name, each in job.fingerprints.items()})
        if saved is not None:
            check_unchanged(saved["config"], config, room=job.room)
            check_same_input(saved["fingerprints"], job, workdir)
        with jax.set_mesh(job.mesh), jax.default_matmul_precision(config.matmul_precision):
            return _Trainer(job, workdir, checkpointer, after_evaluation).run()


def changes(
    saved: Mapping[str, Any],
    config: FinetuneConfig,
    safe: Sequence[str] = SAFE_TO_CHANGE,
    *,
    room: int | None = None,
) -> dict[str, tuple[Any, Any]]:
    """Fields that bear on a run and differ from the config that `saved` has: {'a.b': (saved, now)}.

    Args:
      saved: the config of before, as nested dicts.
      config: that of now.
      safe: beginnings of the fields that may differ.
      room: tokens that the model takes at most; None where it has not been read, so that a length that is left to the
        model cannot be compared with one that is set.
    """
    idle = [*unused_fields(schema.restored(FinetuneConfig, saved)), *unused_fields(config)]
    found = {
        name: pair
        for name, pair in differences(schema.completed(saved, FinetuneConfig), schema.as_dict(config)).items()
        if not name.startswith(tuple(safe)) and not any(each.covers(name) for each in idle)
    }
    lengths = saved["max_length"], config.max_length
    if 0 in lengths and (room is None or len({length_of(length, room) for length in lengths}) == 1):
        found.pop("max_length", None)
    return found


def check_unchanged(
    saved: Mapping[str, Any],
    config: FinetuneConfig,
    safe: Sequence[str] = SAFE_TO_CHANGE,
    *,
    room: int | None = None,
) -> None:
    """Refuse to go on with another config than the one that `saved` has; see `changes`.

    Raises:
      UserError: there are differences; the message names them.
    """
    if changed := changes(saved, config, safe, room=room):
        listed = "; ".join(f"config.{name} was {old!r}, is {new!r}" for name, (old, new) in changed.items())
        raise UserError(
            f"this run was made with another config: {listed}. Undo the change, or set another --workdir"
        )


def check_same_input(fingerprints: Mapping[str, str], job: Job, workdir: epath.Path) -> None:
    """Refuse to go on with other examples or another tokenizer.

    Raises:
      UserError: their fingerprints are not the job's.
    """
    if fingerprints != job.fingerprints:
        raise UserError(
            f"the examples or the tokenizer of config.init_from have changed since the run in {workdir} began; "
            "put them back, or set another --workdir"
        )


class _Trainer:
    """One call of `train`, from its start or its checkpoint to its end."""

    def __init__(
        self,
        job: Job,
        workdir: epath.Path,
        checkpointer: Checkpointer,
        after_evaluation: AfterEvaluation | None,
    ):
        self._job, self._workdir, self._checkpointer = job, workdir, checkpointer
        self._after_evaluation, self._told_to_end = after_evaluation, False
        self._members = job.config.members
        self._abstract = abstract_state(job.classifier, job.optimizer, len(self._members), job.mesh)
        self._predictor = Predictor(job.classifier, job.mesh, job.plan.lengths, job.config.eval.batch)
        self._tracking = Tracking()
        self._seconds = 0.0
        self._sums: Mapping[str, Sequence[float]] | None = None
        self._interruption = Interruption(job.mesh)
        self._keep_better = jax.jit(keep_better, donate_argnums=0)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self._abstract)
        step = make_train_step(job.classifier, job.optimizer, schedule_of(job.config, job.steps), job.config)
        self._step = jax.jit(
            self._interruption.carried_by(step),
            donate_argnums=0,
            out_shardings=(shardings, sharding(job.mesh, ())),  # metrics are whole on every process
        )
        self._shardings = batch_shardings(job.mesh, members=True)
        self._compiled: set[int] = set()  # row lengths that a step has been made of
        self._evaluated = False

    def run(self) -> Outcome:
        """Resume or start, then train to the end, to early stopping, or to a signal."""
        state, step = self._first_state()
        job, config = self._job, self._job.config
        begin = time.perf_counter() - self._seconds
        if not self._ended(step):
            self._describe(step)
        with contextlib.ExitStack() as reports:
            recorder = reports.enter_context(Recorder(job, self._workdir, step, self._sums))
            reports.enter_context(self._interruption)
            batches: list[list[np.ndarray]] = []
            epoch = -1
            while not (self._ended(step) or self._interruption.requested):
                if step // job.plan.steps != epoch:
                    epoch = step // job.plan.steps
                    lengths = job.plan.batch_lengths(epoch)
                    batches = [job.plan.epoch(member.seed, epoch) for member in self._members]
                index = step % job.plan.steps
                arrays = self._batch([member[index] for member in batches], lengths[index])
                on_devices = to_devices(arrays, self._shardings) | self._interruption.flags()
                if (length := lengths[index]) in self._compiled:
                    state, metrics = self._step(state, on_devices)
                else:
                    with recorder.paused(compiling=f"the train step for rows of {length} tokens"):
                        state, metrics = self._step(state, on_devices)
                    self._compiled.add(length)
                step += 1
                recorder.step(
                    step,
                    self._interruption.read(metrics),
                    examples=float(arrays["weights"].sum()),
                    tokens=int(arrays["segments"].sum()),
                )
                evaluating = self._due(step, config.eval.every)
                if evaluating:
                    with recorder.paused(compiling="" if self._evaluated else "the evaluation"):
                        state = self._evaluate(state, step, recorder)
                    self._evaluated = True
                if self._due(step, config.checkpoint.every) or self._interruption.requested:
                    self._save(recorder, state, step, time.perf_counter() - begin)
            recorder.flush()
            if step not in self._checkpointer.steps and step > 0:
                self._save(recorder, state, step, time.perf_counter() - begin)
            self._checkpointer.wait()
        signal = "" if self._ended(step) else self._interruption.requested
        seconds = time.perf_counter() - begin
        return Outcome(job, state, step, signal, self._tracking, seconds, self._interruption.requested)

    def _describe(self, step: int) -> None:
        """Say what is about to be trained: before the first line of the loop comes the first program's compilation."""
        job, config = self._job, self._job.config
        seeds = ", ".join(map(str, dict.fromkeys(member.seed for member in self._members)))
        rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(each.learning_rate for each in self._members))
        lengths = ", ".join(map(str, job.plan.lengths))
        logger.info(
            "runs in one program: %d (seeds %s; learning rates %s); %d steps of %d examples, %d done; "
            "rows of %s tokens, each length compiled when it first comes",
            *(len(self._members), seeds, rates, job.steps, config.global_batch, step, lengths),
        )
        if len(self._members) > 1:
            logger.info("losses and scores that are shown while it trains are means over the runs")

    def _first_state(self) -> tuple[PopulationState, int]:
        restored = self._checkpointer.restore(self._abstract)
        processes.check_same({"the newest checkpoint that can be read": restored and restored[1]["step"]})
        if restored is not None:
            state, run = restored
            self._tracking = Tracking(**run["tracking"])
            self._seconds, self._sums = run["seconds"], run.get("sums")
            logger.info("resumed at step %d", run["step"])
            return state, int(run["step"])
        job = self._job
        return (
            first_state(
                job.classifier, job.params, job.fresh_head, self._members, job.optimizer, self._abstract
            ),
            0,
        )

    def _batch(self, chosen: list[np.ndarray], length: int) -> dict[str, np.ndarray]:
        """One batch of every member, [M, B, ...]."""
        job = self._job
        members = [rows(job.train, each, job.config.global_batch, length).as_dict() for each in chosen]
        return {name: np.stack([member[name] for member in members]) for name in members[0]}

    def _due(self, step: int, every: int) -> bool:
        """Whether something done every so many steps (0: epochs), and at the end, is due after this one."""
        return step % (every or self._job.plan.steps) == 0 or step == self._job.steps

    def _ended(self, step: int) -> bool:
        """Whether there is nothing left to train: all steps are made, or every run has stopped early."""
        stopped = self._tracking.stopped(self._job.config.eval.patience)
        return step >= self._job.steps or self._told_to_end or (bool(stopped) and all(stopped))

    def _evaluate(self, state: PopulationState, step: int, recorder: Recorder) -> PopulationState:
        job = self._job
        values = processes.same_as_first(
            evaluate(self._predictor, state.params, job.evaluations, job.data.task)
        )
        epoch = step / job.plan.steps
        better = self._tracking.add(step, epoch, values, job.metric, job.config.eval.patience)
        mean = mean_over_members(values)
        recorder.evaluation(step, values, mean)
        if self._after_evaluation is not None:
            self._told_to_end = self._after_evaluation(epoch, mean)
        if not any(better):
            return state
        return dataclasses.replace(state, best=self._keep_better(state.best, state.params, jnp.array(better)))

    def _save(self, recorder: Recorder, state: PopulationState, step: int, seconds: float) -> None:
        """Start saving a checkpoint; its metrics are in the file before it is."""
        recorder.put()
        run = {
            "config": schema.as_dict(self._job.config),
            "tracking": self._tracking.as_dict(),
            "seconds": seconds,
            "sums": recorder.sums,
            "fingerprints": self._job.fingerprints,
        }
        self._checkpointer.save(step, state, run)
