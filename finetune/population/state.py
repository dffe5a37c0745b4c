"""The state of a population of M runs: every array has a leading axis M, spread over the mesh's devices."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding

from finetune.classifier.network import Classifier
from finetune.config import Member
from finetune.texts.batching import rows
from finetune.texts.encoding import Encoded
from pretrain.config import MeshConfig
from pretrain.devices.global_batch import laid_out
from pretrain.devices.mesh import MESH_AXES, make_mesh, sharding
from pretrain.optim.train_state import PARAMS, check_shapes, random_key, state_layout

BATCH_AXES = {
    "tokens": ("batch", "seq"),
    "segments": ("batch", "seq"),
    "token_types": ("batch", "seq"),
    "labels": ("batch",),
    "weights": ("batch",),
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PopulationState:
    """Everything that a step or an evaluation changes."""

    step: Any  # Int[Array, ""]: steps done, the same for all members
    params: Any
    opt_state: Any
    best: Any
    """The params of each member's best evaluation so far."""


def population_mesh(config: MeshConfig, members: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh with the axes (member, *MESH_AXES). The member axis takes gcd(M, data) devices of the data axis.

    Raises:
      UserError: the config's sizes do not fit the devices.
    """
    mesh = make_mesh(config, devices)
    shape = dict(mesh.shape)
    spread = math.gcd(members, shape["data"])
    replica, data, *others = shape.values()
    layout = mesh.devices.reshape(replica, spread, data // spread, *others)
    axes = ("member", *MESH_AXES)
    return Mesh(np.moveaxis(layout, 1, 0), axes, axis_types=(AxisType.Auto,) * len(axes))


def batch_shardings(mesh: Mesh, *, members: bool) -> dict[str, NamedSharding]:
    """The layout of a batch's arrays: [M, B, ...] with `members`, else [B, ...] the same for all members."""
    first: tuple[str, ...] = ("member",) if members else ()
    return {name: sharding(mesh, (*first, *axes)) for name, axes in BATCH_AXES.items()}


def to_devices(
    arrays: Mapping[str, np.ndarray], shardings: Mapping[str, NamedSharding]
) -> dict[str, jax.Array]:
    """Global arrays, made of arrays that every process holds whole. A process copies what its devices need."""
    return {name: laid_out(array, shardings[name]) for name, array in arrays.items()}


def abstract_batch(
    examples: Encoded, batch: int, length: int, mesh: Mesh, members: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes [M, B, ...], dtypes and shardings of batches of `batch` rows of `length` tokens, of so many members."""
    one = rows(examples, np.zeros(1, np.int64), batch, length).as_dict()
    shardings = batch_shardings(mesh, members=True)
    return {
        name: jax.ShapeDtypeStruct((members, *array.shape), array.dtype, sharding=shardings[name])
        for name, array in one.items()
    }


def abstract_state(
    classifier: Classifier, optimizer: optax.GradientTransformation, members: int, mesh: Mesh
) -> PopulationState:
    """The state's tree with shape, dtype and sharding at each leaf, and no memory behind it."""
    state = state_layout(classifier.shapes(), classifier.logical_axes(), optimizer, mesh, members)
    return PopulationState(state.step, state.params, state.opt_state, best=state.params)


def first_state(
    classifier: Classifier,
    params: Any,
    fresh_head: frozenset[str],
    members: Sequence[Member],
    optimizer: optax.GradientTransformation,
    abstract: PopulationState,
) -> PopulationState:
    """Step 0: every member has the checkpoint's params, and draws the head's missing modules from its own seed.

    Args:
      classifier: the network.
      params: numpy arrays in its tree, one model's.
      fresh_head: the modules of the head that are to be drawn.
      members: the runs.
      optimizer: theirs.
      abstract: the state's layout.

    Raises:
      UserError: the params do not fit the network.
    """
    check_shapes(
        params,
        classifier.shapes(),
        "config.init_from does not fit its own config: {name} has shape {given} in the weights and {wanted} by the"
        " config",
    )

    def place(array: np.ndarray, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            members, *rest = index or (slice(None),)
            one = np.asarray(array[tuple(rest)], leaf.dtype)
            return np.broadcast_to(one, (len(range(*members.indices(leaf.shape[0]))), *one.shape))

        return jax.make_array_from_callback(leaf.shape, leaf.sharding, part)

    placed = jax.tree.map(place, params, abstract.params)
    if fresh_head:
        seeds = jnp.array([member.seed for member in members])
        laid_out = jax.tree.map(lambda leaf: leaf.sharding, abstract.params["head"])
        drawn = jax.jit(
            jax.vmap(lambda seed: classifier.init_head(random_key(seed, PARAMS))), out_shardings=laid_out
        )(seeds)
        placed["head"] = {
            name: drawn[name] if name in fresh_head else placed["head"][name] for name in placed["head"]
        }
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract.opt_state)
    opt_state = jax.jit(jax.vmap(optimizer.init), out_shardings=shardings)(placed)
    step = jax.device_put(jnp.int32(0), abstract.step.sharding)
    return PopulationState(step, placed, opt_state, jax.tree.map(jnp.copy, placed))


def one_member(params: Any, classifier: Classifier, mesh: Mesh) -> Any:
    """A single model's params (numpy arrays) as those of a population of one, laid out over the mesh."""

    def place(array: np.ndarray, names: tuple[str | None, ...]) -> jax.Array:
        array = np.asarray(array)[None]
        return laid_out(array, sharding(mesh, ("member", *names), array.shape))

    return jax.tree.map(place, params, classifier.logical_axes())


def member_params(params: Any, member: int) -> Any:
    """One member's params, as numpy arrays."""
    return jax.tree.map(lambda array: np.asarray(array[member]), params)
