"""The steps of a fine-tuning run: their batches, and the compiled programs that make them."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

from base import schema
from finetune.job import Job
from finetune.population.evaluation import Predictor
from finetune.population.in_turn import Apart, Turns, abstract_member
from finetune.population.state import PopulationState, abstract_batch, batch_shardings, to_devices
from finetune.population.step_inputs import FIELDS, abstract_inputs, input_shardings, of_member
from finetune.population.train_step import make_train_step, trained_count
from finetune.texts.batching import rows
from pretrain.devices.mesh import sharding
from pretrain.report.facts import keep
from pretrain.reports import start_summary
from pretrain.reports.network_facts import network_facts
from pretrain.runtime import processes
from pretrain.runtime.interruption import Interruption
from pretrain.runtime.programs import compiled, memory_of

logger = logging.getLogger(__name__)


class Programs:
    """Compiled functions, each kept for runs of this process that have the same one: the trials of a search."""

    def __init__(self) -> None:
        """Nothing is compiled yet."""
        self._kept: dict[Any, Any] = {}

    def step(
        self,
        job: Job,
        state: PopulationState,
        batch: Mapping[str, jax.ShapeDtypeStruct],
        length: int,
        interruption: Interruption,
    ) -> jax.stages.Compiled:
        """The compiled step of a run.

        Args:
          job: the run's.
          state: the layout of the state.
          batch: that of a batch.
          length: tokens of its rows.
          interruption: the signals that a step carries.
        """
        leaves, tree = jax.tree.flatten((state, dict(batch)))
        key = "step", _same(job), tree, *leaves
        if key not in self._kept:
            step = interruption.carried_by(make_train_step(job.classifier, job.optimizer, job.config))
            what = f"the train step for rows of {length} tokens"
            is_rotary = job.classifier.encoder.config.family.is_rotary
            self._kept[key] = compiled(step, state, dict(batch), what, is_rotary, sharding(job.mesh, ()))
        program: jax.stages.Compiled = self._kept[key]
        return program

    def predictor(self, job: Job) -> Predictor:
        """What computes the logits of a run."""
        key = "predictor", _same(job), job.mesh, job.plan.lengths
        if key not in self._kept:
            lengths, batch = job.plan.lengths, job.config.eval.batch
            self._kept[key] = Predictor(job.classifier, job.mesh, lengths, batch)
        predictor: Predictor = self._kept[key]
        return predictor


def _same(job: Job) -> str:
    """What runs with the same programs have in common."""
    config = schema.flatten(schema.as_dict(job.config))
    fields = {name: value for name, value in config.items() if name not in FIELDS}
    return json.dumps([fields, job.source_config, job.labels, job.kind.name], sort_keys=True, default=str)


@dataclass(frozen=True)
class HostBatch:
    """One batch of every member."""

    arrays: dict[str, np.ndarray]
    """[M, B, ...]."""
    length: int
    """Tokens of a row."""
    wait: float = 0.0
    """Nothing is waited for: rows are cut from arrays in memory."""


class RunSteps:
    """The steps of a run: see `pretrain.runtime.stage.Stretch`. Every row length has a program of its own."""

    def __init__(self, job: Job, state: PopulationState, programs: Programs, workdir: epath.Path, step: int):
        """Go on from `step`.

        Args:
          job: the run's.
          state: the layout of its state.
          programs: what is compiled already.
          workdir: the run's folder.
          step: steps that are made.
        """
        self.stop = job.steps
        self._job, self._state, self._shared, self._workdir, self._first = job, state, programs, workdir, step
        self._shardings = batch_shardings(job.mesh, members=True)
        self._turns = Turns(job.inputs, job.mesh) if job.in_turn else None
        self._inputs = {} if self._turns else to_devices(job.inputs, input_shardings(job.mesh))
        self._programs: dict[int, jax.stages.Compiled] = {}
        self._epoch, self._lengths = -1, list[int]()
        self._chosen: list[list[np.ndarray]] = []
        """For each member, the examples of each batch of the epoch at hand."""

    def next(self, step: int) -> HostBatch:
        """Make the batch of step number `step` (from 0): a function of the seeds and the step alone."""
        job = self._job
        epoch, index = divmod(step, job.plan.steps)
        if epoch != self._epoch:
            self._epoch, self._lengths = epoch, job.plan.batch_lengths(epoch)
            self._chosen = [job.plan.epoch(member.seed, epoch) for member in job.config.members]
        length = self._lengths[index]
        members = [
            rows(job.train, batches[index], job.config.global_batch, length).as_dict()
            for batches in self._chosen
        ]
        return HostBatch(
            {name: np.stack([member[name] for member in members]) for name in members[0]}, length
        )

    def compile(self, interruption: Interruption) -> None:
        """Compile the step for each row length that comes, so that their memory is known before step 0."""
        job, state = self._job, abstract_member(self._state) if self._turns else self._state
        inputs = abstract_inputs(of_member(job.inputs, 0) if self._turns else job.inputs, job.mesh)
        size, members = job.config.global_batch, 1 if self._turns else len(job.config.members)
        for length in self._lengths_to_come():
            rows = abstract_batch(job.train, size, length, job.mesh, members)
            batch = {**rows, **inputs, **interruption.abstract_flags()}
            self._programs[length] = self._shared.step(job, state, batch, length, interruption)

    def _lengths_to_come(self) -> list[int]:
        """The row lengths of the steps that are left, ascending; any epoch has the same ones."""
        plan, last = self._job.plan, min(self.stop, self._first + 2 * self._job.plan.steps)
        epochs = {step // plan.steps for step in range(self._first, last)}
        lengths = {epoch: plan.batch_lengths(epoch) for epoch in epochs}
        steps = (divmod(step, plan.steps) for step in range(self._first, last))
        return sorted({lengths[epoch][index] for epoch, index in steps})

    def describe(self, step: int) -> None:
        """Say what is about to be trained, and what memory it takes."""
        job, members, state = self._job, self._job.config.members, self._state
        seeds = ", ".join(map(str, dict.fromkeys(member.seed for member in members)))
        rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(each.learning_rate for each in members))
        logger.info(
            "runs %s: %d (seeds %s; learning rates %s); %d steps of %d examples, %d done; rows of %s tokens",
            *("in turn" if self._turns else "in one program", len(members), seeds, rates),
            *(job.steps, job.config.global_batch, step),
            ", ".join(map(str, self._programs)),
        )
        if job.config.freeze:
            counts = (trained_count(job.classifier, job.params, job.config.freeze), job.parameters)
            trained, total = (f"{count:,}" for count in counts)
            logger.info(
                "config.freeze=%s: %s of %s parameters are trained", job.config.freeze, trained, total
            )
        memory = memory_of((state.params, state.best), state.opt_state, self._programs.values(), job.mesh)
        if processes.is_first():
            keep(self._workdir, job.mesh, memory, job.parameters)
        logger.info("memory per device: %s", start_summary.memory_text(memory))
        for name, text in network_facts(job.classifier, job.mesh.shape, fields={}).items():
            logger.info("%s: %s", name, text)
        if len(members) > 1:
            logger.info("losses and scores that are shown while it trains are means over the runs")

    def dispatch(
        self, state: PopulationState | Apart, batch: HostBatch, flags: Mapping[str, jax.Array]
    ) -> tuple[PopulationState | Apart, Mapping[str, Any]]:
        """Have the devices make a step of every member."""
        program = self._programs[batch.length]
        if self._turns:
            state, metrics = self._turns.step(program, state, batch.arrays, flags)
        else:
            state, metrics = program(
                state, {**to_devices(batch.arrays, self._shardings), **self._inputs, **flags}
            )
        counts = {
            "examples": float(batch.arrays["weights"].sum()),
            "tokens": int(batch.arrays["segments"].sum()),
        }
        return state, {**metrics, **counts}
