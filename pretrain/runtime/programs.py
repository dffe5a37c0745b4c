"""Steps compiled ahead of time, and the memory that they take."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from pretrain.devices import hardware
from pretrain.devices.compiler import compile_step
from pretrain.objective.train_step import lower
from pretrain.reports import start_summary

logger = logging.getLogger(__name__)


def compiled(
    step: Callable[..., Any],
    state: Any,
    batch: dict[str, jax.ShapeDtypeStruct],
    what: str,
    is_rotary: bool,
    metrics: NamedSharding | None = None,
) -> jax.stages.Compiled:
    """A train step (state, batch) -> (state, metrics), compiled; says what is compiled, and how long it took.

    Args:
      step: the step.
      state: the state's shapes and shardings.
      batch: those of a batch.
      what: the step's name in messages.
      is_rotary: whether the network rotates queries and keys.
      metrics: the layout of the metrics; None leaves it to the compiler.
    """
    logger.info("compiling %s ...", what)
    start = time.perf_counter()
    program = compile_step(lower(step, state, batch, metrics), jax.default_backend(), is_rotary)
    logger.info("compiled %s in %.1f s", what.partition(" for ")[0], time.perf_counter() - start)
    return program


def memory_of(
    params: Any, opt_state: Any, programs: Iterable[jax.stages.Compiled], mesh: Mesh
) -> start_summary.Memory:
    """The memory of a run on each device.

    Args:
      params: a tree of shapes with shardings: all params that the state has.
      opt_state: the optimiser's.
      programs: the compiled steps, one of which runs at a time.
      mesh: the devices.
    """
    analyses = [program.memory_analysis() for program in programs]
    temporary = [each.temp_size_in_bytes for each in analyses if each is not None]
    return start_summary.Memory(
        params=start_summary.bytes_per_device(params),
        optimizer=start_summary.bytes_per_device(opt_state),
        temporary=max(temporary, default=None),
        limit=hardware.device_memory(mesh.local_devices[0]),
    )
