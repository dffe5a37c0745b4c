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

from base.errors import UserError
from finetune.classifier.network import Classifier
from finetune.config import Member
from pretrain.config import MeshConfig
from pretrain.devices.mesh import MESH_AXES, make_mesh, sharding
from pretrain.optim.optimizers import opt_state_axes
from pretrain.optim.train_state import PARAMS, random_key

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
    """The mesh (member, replica, data, fsdp, tensor): as many of the data axis's devices as divide M go to members.

    Raises:
      UserError: the config's sizes do not fit the devices.
    """
    mesh = make_mesh(config, devices)
    shape = dict(mesh.shape)
    spread = math.gcd(members, shape["data"])
    layout = mesh.devices.reshape(
        shape["replica"], spread, shape["data"] // spread, shape["fsdp"], shape["tensor"]
    )
    axes = ("member", *MESH_AXES)
    return Mesh(np.moveaxis(layout, 1, 0), axes, axis_types=(AxisType.Auto,) * len(axes))


def batch_shardings(mesh: Mesh, *, members: bool) -> dict[str, NamedSharding]:
    """The layout of a batch's arrays: [M, B, ...] with `members`, else [B, ...] the same for all members."""
    first: tuple[str, ...] = ("member",) if members else ()
    return {name: sharding(mesh, (*first, *axes)) for name, axes in BATCH_AXES.items()}


def to_devices(
    arrays: Mapping[str, np.ndarray], shardings: Mapping[str, NamedSharding]
) -> dict[str, jax.Array]:
    """Global arrays of what every process holds whole; each copies what its devices need."""
    return {name: _laid_out(array, shardings[name]) for name, array in arrays.items()}


def _laid_out(array: np.ndarray, layout: NamedSharding) -> jax.Array:
    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        return array if index is None else array[index]

    return jax.make_array_from_callback(array.shape, layout, part)


def abstract_state(
    classifier: Classifier, optimizer: optax.GradientTransformation, members: int, mesh: Mesh
) -> PopulationState:
    """The state's tree with shape, dtype and sharding at each leaf, and no memory behind it."""
    params, axes = classifier.shapes(), classifier.logical_axes()
    opt_state = jax.eval_shape(optimizer.init, params)

    def lay_out(leaf: jax.ShapeDtypeStruct, names: tuple[str | None, ...]) -> jax.ShapeDtypeStruct:
        shape = (members, *leaf.shape)
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding(mesh, ("member", *names), shape))

    laid_out = jax.tree.map(lay_out, params, axes)
    return PopulationState(
        step=jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding(mesh, ())),
        params=laid_out,
        opt_state=jax.tree.map(lay_out, opt_state, opt_state_axes(optimizer, params, axes)),
        best=laid_out,
    )


def first_state(
    classifier: Classifier,
    params: Any,
    fresh_head: frozenset[str],
    members: Sequence[Member],
    optimizer: optax.GradientTransformation,
    abstract: PopulationState,
) -> PopulationState:
    """Step 0: every member has the checkpoint's params, and draws from its seed what the checkpoint has not of a head.

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
    _check(params, classifier.shapes())

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
        return _laid_out(array, sharding(mesh, ("member", *names), array.shape))

    return jax.tree.map(place, params, classifier.logical_axes())


def member_params(params: Any, member: int) -> Any:
    """One member's params, as numpy arrays."""
    return jax.tree.map(lambda array: np.asarray(array[member]), params)


def _check(params: Any, shapes: Any) -> None:
    given = {
        jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    wanted = {
        jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }
    for name in sorted({*given, *wanted}):
        if given.get(name) != wanted.get(name):
            raise UserError(
                f"config.init_from does not fit its own config: {name} has shape {given.get(name)} in the weights "
                f"and {wanted.get(name)} by the config"
            )
