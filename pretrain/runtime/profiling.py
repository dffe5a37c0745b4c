"""The profile of a few steps, for TensorBoard."""

import contextlib

import jax
from etils import epath

from pretrain.config import LogConfig


def profile(
    profiling: contextlib.ExitStack,
    log: LogConfig,
    step: int,
    workdir: epath.Path | None,
) -> None:
    """Start the profiler before its first step, and stop it before the first step after its last.

    Args:
      profiling: closes a profile that has begun.
      log: which steps.
      step: the step at hand, from 0.
      workdir: where WORKDIR/profile goes; None on processes that do not write.
    """
    if workdir is not None and log.profile_steps and step == log.profile_start:
        jax.profiler.start_trace(str(workdir / "profile"))
        profiling.callback(jax.profiler.stop_trace)
    if step == log.profile_start + log.profile_steps:
        profiling.close()
