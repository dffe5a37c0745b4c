"""Shows what a phase of a run is about to do, before its first step."""

from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from base import schema, terminal
from pretrain.devices.flops import StepWork
from pretrain.job import Job
from pretrain.models.family_fields import rotary_bases
from pretrain.objective.names import TRAITS
from pretrain.objective.objective import full_rows
from pretrain.optim.batch_scaling import rate_text
from pretrain.optim.train_state import TrainState
from pretrain.phases import Phase
from pretrain.report.facts import keep
from pretrain.reports import start_summary
from pretrain.reports.network_facts import network_facts
from pretrain.reports.start_summary import Plan
from pretrain.runtime import processes
from pretrain.runtime.programs import memory_of


def show(
    job: Job,
    phase: Phase,
    state: TrainState,
    programs: Sequence[jax.stages.Compiled],
    workdir: epath.Path,
    *,
    start_step: int,
    steps: int,
    again: bool,
) -> None:
    """Print a phase's network, plan and memory; keep what the report says of them.

    Args:
      job: the run.
      phase: the phase.
      state: the state's tree with shape, dtype and sharding at each leaf.
      programs: the compiled steps.
      workdir: the run's folder.
      start_step: steps that the run has made.
      steps: steps of the whole run.
      again: whether the network has been shown.
    """
    memory = memory_of(state.params, state.opt_state, programs, job.mesh)
    keep(workdir, job.mesh, memory, job.model.count().total)
    overview = start_summary.overview(
        state.params,
        job.mesh,
        _plan(job, phase, start_step=start_step, steps=steps),
        memory,
        sizes=job.model.sizes(),
        network={} if again else network_facts(job.model, job.mesh.shape),
        processes=processes.count(),
        again=again,
    )
    terminal.console().print(overview)


def boundary(job: Job, phase: Phase) -> str:
    """One line on what changes where a phase, or a stretch of a batch warm-up, begins; empty for the first."""
    if not phase.index:
        return ""
    before, after = (_settings(job, each) for each in (job.phases[phase.index - 1], phase))
    changed = [
        f"{name} {before.get(name)} -> {after.get(name)}"
        for name in dict.fromkeys((*after, *before))
        if before.get(name) != after.get(name)
    ]
    what = f"phase {phase.number + 1} of {job.phases[-1].number + 1} begins"
    if phase.of is not None:
        what = f"the batch warm-up {'goes on' if phase.stop < phase.whole.stop else 'is over'}"
    return f"step {phase.start}: {what}: {', '.join(changed) or 'nothing changes'}"


def _settings(job: Job, phase: Phase) -> dict[str, Any]:
    """What may differ between phases, by field."""
    rates = phase.mask_rates
    return {
        "objective": phase.objective,
        "seq_len": phase.seq_len,
        "global_batch": phase.global_batch,
        "grad_accum": phase.grad_accum,
        "masking_rate": f"{job.config.masking.rate_shape} curve" if rates else phase.masking_rate,
        "learning_rate": phase.learning_rate,
        "schedule": phase.schedule or job.config.schedule.name,
        **rotary_bases(phase.network(job.encoder)),
        **{f"data.{name}": value for name, value in schema.flatten(schema.as_dict(phase.data)).items()},
    }


def _plan(job: Job, phase: Phase, *, start_step: int, steps: int) -> Plan:
    """The plain numbers of a phase; arguments as of `show`."""
    objective, rows, epochs = job.objectives[phase.index], phase.global_batch, job.config.epochs
    rates = phase.mask_rates if TRAITS[phase.objective].hides_tokens else None
    work = full_rows(objective, rows, phase.seq_len, job.encoder.windows)
    return Plan(
        steps=steps,
        start_step=start_step,
        global_batch=rows,
        seq_len=phase.seq_len,
        predictions=objective.predictions(phase.seq_len),
        changing_predictions=rates.predictions(phase.seq_len)[1:] if rates else None,
        tokens=sum((each.stop - each.start) * each.global_batch * each.seq_len for each in job.phases),
        grad_accum=phase.grad_accum,
        dtype=job.config.dtype,
        step_flops=StepWork(job.encoder).flops(**work),
        peak_flops=job.peak_flops,
        steps_per_epoch=job.epoch_steps // epochs if job.epoch_steps and epochs else None,
        learning_rate=rate_text(job.config.optimizer, phase),
    )
