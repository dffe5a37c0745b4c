"""The learning rate over a run: linear warm-up from 0, then one of five shapes.

Step counts are optax's: the update made at step `t` (from 0) uses the value at `t`, so warm-up gives exactly
0 at 0 and the peak at `warmup_steps`; shapes that decay reach their last value at `total_steps`, one step
after the last update.
"""

import jax
import jax.numpy as jnp
import optax

from base.errors import UserError
from pretrain.config import ScheduleConfig


def learning_rate_schedule(config: ScheduleConfig, learning_rate: float, total_steps: int) -> optax.Schedule:
    """The schedule that `config` asks for, with peak `learning_rate`, over a run of `total_steps` updates.

    With p the share of the way from the end of warm-up to the end of the run, and f the final fraction:
    linear 1-(1-f)p; cosine f+(1-f)(1+cos(pi p))/2 (Loshchilov and Hutter 2017, section 3, without restarts);
    inverse_sqrt sqrt(warmup/t) (Vaswani et al. 2017, section 5.3); wsd constant until the last
    `decay_fraction` of the run, over which it falls as 1-(1-f)sqrt(q) (Hägele et al. 2024, section 3.2;
    ModernBERT too); constant.

    Returns:
      A function of the step (an int or an int32 scalar) to the learning rate (a float32 scalar).

    Raises:
      UserError: warm-up (with wsd: and decay) longer than the run, or a fraction outside 0..1.
    """
    _check(config, total_steps)
    warmup, final = config.warmup_steps, config.final_fraction
    decay_steps = round(config.decay_fraction * total_steps)

    def share(step: jax.Array) -> jax.Array:
        progress = jnp.clip((step - warmup) / max(1, total_steps - warmup), 0.0, 1.0)
        match config.name:
            case "linear":
                return 1.0 - (1.0 - final) * progress
            case "cosine":
                return final + (1.0 - final) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
            case "inverse_sqrt":
                reference = max(1, warmup)
                return jnp.sqrt(reference / jnp.maximum(step, reference))
            case "wsd":
                decayed = jnp.clip((step - (total_steps - decay_steps)) / max(1, decay_steps), 0.0, 1.0)
                return 1.0 - (1.0 - final) * jnp.sqrt(decayed)
            case "constant":
                return jnp.ones_like(step)
        raise ValueError(f"unknown schedule {config.name!r}")

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(count, jnp.float32)
        warming = jnp.minimum(step / warmup, 1.0) if warmup else 1.0
        return learning_rate * jnp.where(step < warmup, warming, share(step))

    return schedule


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
