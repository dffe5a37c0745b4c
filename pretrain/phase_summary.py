"""What a phase of a run is about to do, for the summary that is shown before its first step."""

from pretrain.devices.flops import StepWork
from pretrain.job import Job
from pretrain.objective.objective import full_rows
from pretrain.phases import Phase
from pretrain.reports.start_summary import Plan


def phase_plan(job: Job, phase: Phase, *, start_step: int, steps: int) -> Plan:
    """The plain numbers of a phase.

    Args:
      job: the run.
      phase: the phase.
      start_step: steps that the run has made.
      steps: steps of the whole run.
    """
    objective, rows, epochs = job.objectives[phase.index], phase.global_batch, job.config.epochs
    work = full_rows(objective, rows, phase.seq_len, job.encoder.windows)
    return Plan(
        steps=steps,
        start_step=start_step,
        global_batch=rows,
        seq_len=phase.seq_len,
        predictions=objective.predictions(phase.seq_len),
        grad_accum=phase.grad_accum,
        dtype=job.config.dtype,
        step_flops=StepWork(job.encoder).flops(**work),
        peak_flops=job.peak_flops,
        steps_per_epoch=job.epoch_steps // epochs if job.epoch_steps and epochs else None,
    )
