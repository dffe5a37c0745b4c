"""Apply the function of a single run to every run of a population: to all at once, or in turn.

At once, one operation computes all runs, by `jax.vmap`: small operations of several runs fill an accelerator. In turn,
a loop in the program computes one run after another. A single run fills a CPU, and the arrays of one run are more
likely to fit its caches.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pretrain.models.matrix_products import platform

MEMBER = "member"
"""The mesh axis over which the runs are distributed. Devices of different places on it compute at the same time."""


def turns(members: int, population: str) -> int:
    """How often the program being traced computes runs; 1: all at once.

    Args:
      members: M, a multiple of the mesh's axis `member`.
      population: `config.population`.
    """
    if population == "together" or (population == "auto" and platform() != "cpu"):
        return 1
    return members // jax.sharding.get_abstract_mesh().shape.get(MEMBER, 1)


def update_each(
    function: Callable[..., tuple[Any, Any]], state: Any, inputs: Any, population: str
) -> tuple[Any, Any]:
    """Update the state of every run: (state, result) = function(state, inputs).

    In turn, the loop updates the states in place, so that it needs the working memory of a single run.

    Args:
      function: that of a single run.
      state: a tree of arrays [M, ...].
      inputs: a tree of arrays [M, ...].
      population: `config.population`.

    Returns:
      The new states and the results, trees of arrays [M, ...].
    """
    members = jax.tree.leaves(state)[0].shape[0]
    every = jax.vmap(function, spmd_axis_name=MEMBER)
    count = turns(members, population)
    if count == 1:
        return every(state, inputs)

    def turn(states: Any, own: tuple[jax.Array, Any]) -> tuple[Any, Any]:
        index, given = own
        state = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, 1, keepdims=False), states)
        new, result = every(state, given)
        put = jax.lax.dynamic_update_index_in_dim
        return jax.tree.map(lambda x, own: put(x, own, index, 1), states, new), result

    inputs = jax.tree.map(lambda x: jnp.swapaxes(_grouped(x, count), 0, 1), inputs)
    states = jax.tree.map(lambda x: _grouped(x, count), state)
    states, results = jax.lax.scan(turn, states, (jnp.arange(count), inputs))
    results = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), results)
    return jax.tree.map(_ungrouped, states), jax.tree.map(_ungrouped, results)


def compute_each(function: Callable[..., Any], state: Any, population: str) -> Any:
    """The results [M, ...] of a function of a single run, for the states [M, ...] of every run.

    Args:
      function: that of a single run.
      state: a tree of arrays [M, ...].
      population: `config.population`.
    """
    every = jax.vmap(function, spmd_axis_name=MEMBER)
    count = turns(jax.tree.leaves(state)[0].shape[0], population)
    if count == 1:
        return every(state)
    states = jax.tree.map(lambda x: jnp.swapaxes(_grouped(x, count), 0, 1), state)
    return jax.tree.map(lambda x: _ungrouped(jnp.swapaxes(x, 0, 1)), jax.lax.map(every, states))


def _grouped(x: jax.Array, turns: int) -> jax.Array:
    """[M, ...] as [groups, turns, ...]: each place of the mesh axis has the runs that it had."""
    return x.reshape(x.shape[0] // turns, turns, *x.shape[1:])


def _ungrouped(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
