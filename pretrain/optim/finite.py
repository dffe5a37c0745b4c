"""Whether the numbers of a step, or of a network, are finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, PyTree

NONFINITE = "nonfinite"
"""The metric of a train step that is 1 where its loss or its gradient is not finite, else 0."""


def is_bad(loss_sum: Array, grad_norm: Array) -> Bool[Array, ""]:
    """Whether a step's loss or the norm of its gradient is not finite."""
    return ~(jnp.isfinite(loss_sum) & jnp.isfinite(grad_norm))


def kept(bad: Bool[Array, ""], old: PyTree, new: PyTree) -> PyTree:
    """`old` where a step is bad, else `new`; to the bit.

    The count of a schedule in an optimiser's state is `new` in any case: a step that is left out is a step all the
    same, and the next one has the learning rate of its own number.
    """

    def choose(before: PyTree, after: PyTree) -> PyTree:
        if _is_schedule(after):
            return after
        return jax.tree.map(lambda one, other: jnp.where(bad, one, other), before, after)

    return jax.tree.map(choose, old, new, is_leaf=_is_schedule)


def _is_schedule(node: object) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)


@jax.jit
def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every number of a tree of arrays is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def first_bad(params: PyTree) -> str:
    """The path of an array that holds a number which is not finite; '' where there is none.

    Args:
      params: a tree of numpy arrays.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        if not np.isfinite(leaf).all():
            return jax.tree_util.keystr(path, simple=True, separator=".")
    return ""
