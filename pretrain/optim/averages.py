"""The moving average of the weights, beside the weights that are trained.

It is a part of the optimiser's state. So it has the layout of moments (split over `zero1` and `fsdp`), it is in every
checkpoint, and a step that is skipped or made again leaves it as it was.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


class AveragedState(NamedTuple):
    """The state of an optimiser and the average of the weights that it has made."""

    inner: optax.OptState
    updates: Int[Array, ""]
    """Updates so far."""
    average: optax.Params
    """float32, in the tree of params."""


def averaged(optimizer: optax.GradientTransformation, decay: float) -> optax.GradientTransformationExtraArgs:
    """`optimizer` that keeps an exponential moving average of the weights after each of its updates.

    Args:
      optimizer: it must be the whole chain: its updates are added to the params as they are. Further arguments of an
        update are passed on to it.
      decay: share of the average that an update keeps, in the long run; with 0 nothing is kept, and `optimizer` is
        returned.
    """
    optimizer = optax.with_extra_args_support(optimizer)
    if not decay:
        return optimizer

    def init(params: optax.Params) -> AveragedState:
        # A copy, as a step donates the params and the state.
        average = jax.tree.map(lambda leaf: jnp.copy(leaf).astype(jnp.float32), params)
        return AveragedState(optimizer.init(params), jnp.zeros([], jnp.int32), average)

    def update(
        gradients: optax.Updates, state: AveragedState, params: optax.Params | None = None, **more: Any
    ) -> tuple[optax.Updates, AveragedState]:
        updates, inner = optimizer.update(gradients, state.inner, params, **more)
        after = optax.apply_updates(params, updates)
        average = moved(state.average, after, state.updates, decay)
        return updates, AveragedState(inner, state.updates + 1, average)

    return optax.GradientTransformationExtraArgs(init, update)


def moved(average: Any, params: Any, count: Int[Array, ""], decay: float) -> Any:
    """The average after one more update.

    The decay is at most (1 + t) / (10 + t) after t updates (as in TensorFlow's ExponentialMovingAverage). So the
    average forgets the initial weights, and needs no correction.

    Args:
      average: it, as a tree.
      params: the weights after the update, in the same tree.
      count: updates t before this one.
      decay: the decay in the long run.
    """
    share = 1 - decay_at(count, decay)
    return jax.tree.map(lambda old, new: old + share * (new - old), average, params)


def decay_at(count: Int[Array, ""], decay: float) -> Float[Array, ""]:
    """The decay of the average at the update after `count` others."""
    return jnp.minimum(decay, (1 + count) / (10 + count))


def average_of(opt_state: optax.OptState) -> optax.Params | None:
    """The average in the state of an optimiser; None where it keeps none."""
    return opt_state.average if isinstance(opt_state, AveragedState) else None
