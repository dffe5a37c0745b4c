"""The learning rate scaled by the tokens of a batch."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pretrain.optim.config import OptimizerConfig
from pretrain.phases import Phase


def rate_factor(config: OptimizerConfig, tokens: int) -> float:
    """What the learning rate of a batch is multiplied by: (tokens / reference_batch) ** batch_exponent.

    The best exponent depends on the optimiser: 0.5 for Adam (Malladi et al. 2022, "On the SDEs and Scaling Rules for
    Adaptive Gradient Algorithms"), 1 for SGD (Goyal et al. 2017), less for Muon.

    Args:
      config: `config.optimizer`; with a reference_batch of 0 the factor is 1.
      tokens: tokens of a batch B x S, padding included.
    """
    return (tokens / config.reference_batch) ** config.batch_exponent if config.reference_batch else 1.0


def tokens_of(phase: Phase) -> int:
    """Tokens of a phase's batch, padding included."""
    return phase.global_batch * phase.seq_len


def rate_text(config: OptimizerConfig, phase: Phase) -> str:
    """What a summary says of a phase's peak learning rate; '' where no batch scales it."""
    if not config.reference_batch:
        return ""
    factor = rate_factor(config, tokens_of(phase))
    return (
        f"peak {phase.learning_rate * factor:.4g} = {phase.learning_rate:g} x ({tokens_of(phase):,} / "
        f"{config.reference_batch:,} tokens)^{config.batch_exponent:g}"
    )


def scaled_by_batch(
    schedule: optax.Schedule, config: OptimizerConfig, phases: Sequence[Phase]
) -> optax.Schedule:
    """A run's schedule with the learning rate of each phase scaled by its batch.

    Args:
      schedule: learning rate by step.
      config: `config.optimizer`.
      phases: the run's, whose steps follow each other.

    Returns:
      `schedule` itself where no batch scales it.
    """
    factors = np.array([rate_factor(config, tokens_of(phase)) for phase in phases], np.float32)
    if not config.reference_batch:
        return schedule
    stops = np.array([phase.stop for phase in phases[:-1]], np.int32)

    def scaled(count: jax.typing.ArrayLike) -> jax.Array:
        phase = jnp.sum(jnp.asarray(count, jnp.int32) >= stops)
        return jnp.asarray(factors)[phase] * schedule(count)

    return scaled
