"""The members of a population make their steps in turn, by the program of a single run.

One run fills a CPU: several in one program are no faster, and the products of a batched program are slower. So each
member has a state of its own while steps are made, whose memory its next state takes. All else sees the population with
its axis M: `joined` puts the states together, before an evaluation or a checkpoint.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from finetune.config import FinetuneConfig
from finetune.population.state import PopulationState, batch_shardings, to_devices
from finetune.population.step_inputs import input_shardings, of_member

IN_TURN = "in_turn"


@dataclass(frozen=True)
class Apart:
    """A state for each member of a population, M = 1, without the params of its best evaluation."""

    members: tuple[PopulationState, ...]
    best: Any
    """Those of all members, with the axis M."""


def chosen(config: FinetuneConfig, mesh: Mesh) -> bool:
    """Whether the members of a run make their steps in turn.

    Args:
      config: the run's.
      mesh: its devices; `auto` takes turns on a single CPU.
    """
    one_cpu = mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"
    takes_turns = config.run_members == IN_TURN or (config.run_members == "auto" and one_cpu)
    return takes_turns and len(config.members) > 1


def abstract_member(population: PopulationState) -> PopulationState:
    """The layout of a member's state; that of the population is given, whose axis M is not split."""

    def one(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype, sharding=leaf.sharding)

    params, opt_state = jax.tree.map(one, (population.params, population.opt_state))
    return PopulationState(population.step, params, opt_state, best=())


class Turns:
    """Makes the steps of all members, one after another."""

    def __init__(self, inputs: Mapping[str, np.ndarray], mesh: Mesh):
        """Take what the steps of all members have as inputs (`finetune.population.step_inputs`)."""
        self._shardings, layouts = batch_shardings(mesh, members=True), input_shardings(mesh)
        self._own = [to_devices(of_member(inputs, index), layouts) for index in range(len(inputs["seed"]))]

    def step(
        self,
        program: Callable[..., Any],
        state: PopulationState | Apart,
        arrays: Mapping[str, np.ndarray],
        flags: Mapping[str, jax.Array],
    ) -> tuple[Apart, dict[str, jax.Array]]:
        """Make a step of every member; returns their states, and the metrics of all.

        It waits for each member but the last.

        Args:
          program: the compiled step of one member.
          state: of the population, whose memory is used again.
          arrays: the batches, [M, B, ...].
          flags: what goes into every batch besides.
        """
        apart = state if isinstance(state, Apart) else taken_apart(state)
        members, metrics = list[PopulationState](), list[Mapping[str, jax.Array]]()
        for index, (member, own) in enumerate(zip(apart.members, self._own, strict=True)):
            if metrics:  # two programs at once would share the cores, and both need memory
                jax.block_until_ready(metrics[-1])
            rows = {name: array[index : index + 1] for name, array in arrays.items()}
            after, found = program(member, {**to_devices(rows, self._shardings), **own, **flags})
            members.append(after)
            metrics.append(found)
        return Apart(tuple(members), apart.best), _of_all(metrics)


@jax.jit
def _of_all(metrics: Sequence[Mapping[str, jax.Array]]) -> dict[str, jax.Array]:
    """Metrics [M] of those [1] of each member; numbers that all members share are those of the last."""
    last = metrics[-1]
    return {
        name: jnp.concatenate([each[name] for each in metrics]) if last[name].ndim else last[name]
        for name in last
    }


def taken_apart(state: PopulationState) -> Apart:
    """A state for each member. The arrays of the population are given up, one by one, so that none are there twice."""
    count = jax.tree.leaves(state.params)[0].shape[0]
    leaves, tree = jax.tree.flatten((state.params, state.opt_state))
    parts: list[list[jax.Array]] = [[] for _ in range(count)]
    for leaf in leaves:
        for index, own in enumerate(parts):
            own.append(_slicer(leaf.sharding)(leaf, index))
        leaf.delete()
    members = list[PopulationState]()
    for own in parts:
        params, opt_state = jax.tree.unflatten(tree, own)
        step = jnp.copy(state.step) if members else state.step  # each state gives its memory up
        members.append(PopulationState(step, params, opt_state, best=()))
    return Apart(tuple(members), state.best)


def joined(state: PopulationState | Apart) -> PopulationState:
    """The state of the population. The arrays of its members are given up, as those of `taken_apart`."""
    if isinstance(state, PopulationState):
        return state
    trees = [(member.params, member.opt_state) for member in state.members]
    tree, whole = jax.tree.structure(trees[0]), list[jax.Array]()
    for parts in zip(*map(jax.tree.leaves, trees), strict=True):
        whole.append(_joiner(parts[0].sharding)(*parts))
        for part in parts:
            part.delete()
    params, opt_state = jax.tree.unflatten(tree, whole)
    return PopulationState(state.members[0].step, params, opt_state, state.best)


@functools.cache
def _slicer(layout: NamedSharding) -> Callable[..., jax.Array]:
    return jax.jit(lambda leaf, index: jax.lax.dynamic_slice_in_dim(leaf, index, 1), out_shardings=layout)


@functools.cache
def _joiner(layout: NamedSharding) -> Callable[..., jax.Array]:
    return jax.jit(lambda *parts: jnp.concatenate(parts), out_shardings=layout)
