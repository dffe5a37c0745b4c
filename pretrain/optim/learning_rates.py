"""The learning rate over a run: linear warm-up from 0, then one of five shapes.

Steps are counted as in optax: the update at step `t` (from 0) uses the value at `t`. So with warm-up, the rate is
exactly 0 at step 0 and the peak at `warmup_steps`. A decaying shape reaches its last value at `total_steps`, one step
after the last update. A phase may have a peak of its own, and a shape that spans this phase alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from base.errors import UserError
from pretrain.config import ScheduleConfig
from pretrain.phases import Phase


def schedule_of_phases(
    config: ScheduleConfig, learning_rate: float, phases: Sequence[Phase]
) -> optax.Schedule:
    """Make the learning-rate schedule of a run.

    A phase with a peak of its own multiplies the run's shape by that peak. A phase with a shape of its own begins at
    its peak, and p runs from 0 to 1 over this phase:
      constant, linear, cosine: as in `learning_rate_schedule`.
      1-sqrt: 1-(1-f)sqrt(p), the decay of wsd.
    The warm-up is the run's.

    Args:
      config: the run's shape and its settings.
      learning_rate: the run's peak learning rate.
      phases: the run's phases.

    Returns:
      A function as that of `learning_rate_schedule`.

    Raises:
      UserError: as of `learning_rate_schedule`.
    """
    run = learning_rate_schedule(config, learning_rate, phases[-1].stop)
    own = {"learning_rate", "schedule"}
    if not any(phase.own & own for phase in phases):
        return run
    parts = [
        (phase.start, _of_phase(config, phase, phases[-1].stop) if phase.own & own else run)
        for phase in phases
    ]

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        rate = run(count)
        for start, part in parts:
            rate = jnp.where(jnp.asarray(count) >= start, part(count), rate)
        return rate

    return schedule


def _of_phase(config: ScheduleConfig, phase: Phase, total_steps: int) -> optax.Schedule:
    """The learning rate within a phase that has a peak or a shape of its own."""
    if phase.schedule is None:
        return learning_rate_schedule(config, phase.learning_rate, total_steps)
    first, last, final = phase.whole.start, phase.whole.stop, config.final_fraction

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(count, jnp.float32)
        progress = jnp.clip((step - first) / (last - first), 0.0, 1.0)
        warming = jnp.minimum(step / config.warmup_steps, 1.0) if config.warmup_steps else 1.0
        fallen = {
            "constant": jnp.zeros_like(step),
            "linear": progress,
            "cosine": 0.5 * (1.0 - jnp.cos(jnp.pi * progress)),
            "1-sqrt": jnp.sqrt(progress),
        }[phase.schedule or "constant"]
        return phase.learning_rate * warming * (1.0 - (1.0 - final) * fallen)

    return schedule


def learning_rate_schedule(config: ScheduleConfig, learning_rate: float, total_steps: int) -> optax.Schedule:
    """Make the learning-rate schedule of a config.

    The shapes after warm-up, as shares of the peak. p runs from 0 at the end of warm-up to 1 at the end of the run, and
    f is the final fraction:
      linear: 1-(1-f)p.
      cosine: f+(1-f)(1+cos(pi p))/2 (Loshchilov and Hutter 2017, section 3, without restarts).
      inverse_sqrt: sqrt(warmup/t) (Vaswani et al. 2017, section 5.3).
      wsd: 1, and in the last `decay_fraction` of the run 1-(1-f)sqrt(q), where q runs from 0 to 1 (Hägele et al. 2024,
        section 3.2; ModernBERT uses it too).
      constant: 1.

    Args:
      config: the shape and its settings.
      learning_rate: the peak learning rate.
      total_steps: number of updates of the run.

    Returns:
      A function from the step (an int or an int32 scalar) to the learning rate (a float32 scalar).

    Raises:
      UserError: warm-up is longer than the run (for wsd: warm-up and decay together), or a fraction is outside 0..1.
    """
    numbers = schedule_numbers(config, total_steps)

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        return learning_rate * share_of_peak(config.name, numbers, count)

    return schedule


class ScheduleNumbers(NamedTuple):
    """The numbers of a schedule: constants of a program, or its inputs.

    Steps are multiplied by reciprocals, and not divided: XLA makes a product of a division by a constant. So both have
    the same learning rates to the bit.
    """

    warmup: jax.typing.ArrayLike
    """Steps of warm-up."""
    of_warmup: jax.typing.ArrayLike
    """The share of the warm-up that a step is; 1 without warm-up."""
    of_rest: jax.typing.ArrayLike
    """The share of the steps after the warm-up that a step is."""
    decay: jax.typing.ArrayLike
    """The step at which wsd begins to fall."""
    of_decay: jax.typing.ArrayLike
    """The share of the steps after it that a step is."""
    final: jax.typing.ArrayLike
    """The last value, as a share of the peak."""


def schedule_numbers(config: ScheduleConfig, total_steps: int) -> ScheduleNumbers:
    """The numbers of a config's schedule.

    Args:
      config: the shape and its settings.
      total_steps: number of updates of the run.

    Raises:
      UserError: as of `learning_rate_schedule`.
    """
    _check(config, total_steps)
    warmup, decay_steps = config.warmup_steps, round(config.decay_fraction * total_steps)
    one = np.float32(1.0)
    return ScheduleNumbers(
        warmup=np.float32(warmup),
        of_warmup=one / np.float32(max(1, warmup)),
        of_rest=one / np.float32(max(1, total_steps - warmup)),
        decay=np.float32(total_steps - decay_steps),
        of_decay=one / np.float32(max(1, decay_steps)),
        final=config.final_fraction,
    )


def share_of_peak(name: str, numbers: ScheduleNumbers, count: jax.typing.ArrayLike) -> jax.Array:
    """The learning rate of a step as a share of the peak, float32; see `learning_rate_schedule`.

    Args:
      name: the shape.
      numbers: those of `schedule_numbers`, as float32 scalars.
      count: the step, an int or an int32 scalar.
    """
    warmup, of_warmup, of_rest, decay, of_decay, final = numbers
    step = jnp.asarray(count, jnp.float32)
    progress = jnp.clip((step - warmup) * of_rest, 0.0, 1.0)
    match name:
        case "linear":
            after = 1.0 - (1.0 - final) * progress
        case "cosine":
            after = final + (1.0 - final) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        case "inverse_sqrt":
            reference = jnp.maximum(1.0, warmup)
            after = jnp.sqrt(reference / jnp.maximum(step, reference))
        case "wsd":
            after = 1.0 - (1.0 - final) * jnp.sqrt(jnp.clip((step - decay) * of_decay, 0.0, 1.0))
        case "constant":
            after = jnp.ones_like(step)
        case _:
            raise ValueError(f"unknown schedule {name!r}")
    return jnp.where(step < warmup, jnp.minimum(step * of_warmup, 1.0), after)


def _check(config: ScheduleConfig, total_steps: int) -> None:
    warmup = config.warmup_steps
    if warmup < 0:
        raise UserError(f"config.schedule.warmup_steps={warmup} should be 0 or more")
    for name in ("final_fraction", "decay_fraction"):
        value = getattr(config, name)
        if not 0.0 <= value <= 1.0:
            raise UserError(f"config.schedule.{name}={value} should be between 0 and 1")
    if warmup > total_steps:
        raise UserError(
            f"config.schedule.warmup_steps={warmup} is longer than the run of {total_steps} steps; "
            f"set it to {total_steps // 10} or so, or make the run longer (config.steps)"
        )
    decay_steps = round(config.decay_fraction * total_steps)
    if config.name == "wsd" and warmup + decay_steps > total_steps:
        raise UserError(
            f"config.schedule.warmup_steps={warmup} and {decay_steps} steps of decay (config.schedule.decay_fraction="
            f"{config.decay_fraction}) are longer than the run of {total_steps} steps; lower one of them"
        )
