"""The train state: the values that a step changes, their layout on the mesh, and their initial values."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Float

from base.errors import UserError
from pretrain.devices.mesh import of_moments, sharding
from pretrain.models import Model
from pretrain.models.bigrams import Bigrams
from pretrain.models.word_vectors import with_word_vectors
from pretrain.optim.optimizers import opt_state_axes

# One stream of random numbers for each use.
MASKS, DROPOUT, PARAMS, EVALUATION = range(4)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step changes."""

    step: Any  # Int[Array, ""], or its ShapeDtypeStruct
    params: Any
    opt_state: Any


def random_key(seed: int | jax.Array, use: int, implementation: str = "threefry2x32") -> jax.Array:
    """The key of one use of random numbers (MASKS, DROPOUT, ...) in the run of this seed."""
    return jax.random.fold_in(jax.random.key(seed, impl=implementation), use)


def dropout_generator(chosen: str, platform: str) -> str:
    """The generator of dropout masks by jax's name, for `config.dropout_rng` and a platform (cpu, gpu or tpu)."""
    if chosen == "auto":
        chosen = "threefry" if platform == "cpu" else "rbg"
    return {"threefry": "threefry2x32", "rbg": "rbg"}[chosen]


def abstract_state(model: Model, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state's tree with shape, dtype and sharding at each leaf, and no memory behind it."""
    return state_layout(
        jax.eval_shape(model.init, random_key(0, PARAMS)), model.logical_axes(), optimizer, mesh
    )


def state_layout(
    params: Any,
    axes: Any,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    members: int | None = None,
) -> TrainState:
    """The state of any network: its tree with shape, dtype and sharding at each leaf, and no memory behind it.

    Args:
      params: a tree of shapes and dtypes.
      axes: the logical axes of each of them.
      optimizer: the run's.
      mesh: where the state lies.
      members: runs of a population, whose arrays have a leading axis M; None for a run without one.
    """

    def lay_out(leaf: jax.ShapeDtypeStruct, names: tuple[str | None, ...]) -> jax.ShapeDtypeStruct:
        shape, named = leaf.shape, names
        if members is not None:
            shape, named = (members, *shape), ("member", *names)
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding(mesh, named, shape))

    def lay_out_moments(leaf: jax.ShapeDtypeStruct, names: tuple[str | None, ...]) -> jax.ShapeDtypeStruct:
        return lay_out(leaf, of_moments(names))

    opt_state = jax.eval_shape(optimizer.init, params)
    return TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding(mesh, ())),
        params=jax.tree.map(lay_out, params, axes),
        opt_state=jax.tree.map(lay_out_moments, opt_state, opt_state_axes(optimizer, params, axes)),
    )


def _shardings(abstract: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def fresh_state(
    model: Model,
    optimizer: optax.GradientTransformation,
    abstract: TrainState,
    seed: int,
    words: Float[np.ndarray, "V D"] | Bigrams | None = None,
) -> TrainState:
    """The state of step 0 with fresh params. Every array is created in shards, never whole on one device.

    Args:
      model: the network.
      optimizer: the run's.
      abstract: the state's layout.
      seed: the run's.
      words: vectors that tokens start at (`pretrain.models.word_vectors`), or counts that the network starts at
        (`pretrain.models.bigrams`); None for random words.
    """

    def init(words: jax.Array | Bigrams | None) -> TrainState:
        params = model.init(random_key(seed, PARAMS))
        if isinstance(words, Bigrams):
            assert model.config.family.parts.bigrams is not None
            params = model.config.family.parts.bigrams(params, model.config, words)
        elif words is not None:
            embeddings = params["embeddings"]
            word = with_word_vectors(embeddings["word"], words, model.config.vocab_size)
            params = {**params, "embeddings": {**embeddings, "word": word}}
        return TrainState(step=jnp.int32(0), params=params, opt_state=optimizer.init(params))

    table = abstract.params["embeddings"]["word"]

    def placed(vectors: Float[np.ndarray, "V D"]) -> jax.Array:
        padded = np.pad(vectors, ((0, table.shape[0] - len(vectors)), (0, 0)))
        return jax.make_array_from_callback(table.shape, table.sharding, padded.__getitem__)

    given: jax.Array | Bigrams | None = None
    if isinstance(words, Bigrams):
        frequencies = np.pad(words.log_frequencies, (0, table.shape[0] - len(words.log_frequencies)))
        given = words._replace(vectors=placed(np.asarray(words.vectors)), log_frequencies=frequencies)
    elif words is not None:
        given = placed(words)
    return jax.jit(init, out_shardings=_shardings(abstract))(given)


def state_from_params(
    params: Any, optimizer: optax.GradientTransformation, abstract: TrainState
) -> TrainState:
    """Step 0 with the given params (numpy) and a fresh optimiser.

    Raises:
      UserError: a param is missing, superfluous or of another shape than the config's model.
    """
    check_shapes(
        params,
        abstract.params,
        "config.init_from does not fit config.model: {name} has shape {given} there and {wanted} here",
    )

    def place(array: np.ndarray, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.make_array_from_callback(
            leaf.shape, leaf.sharding, lambda index: np.asarray(array[index], dtype=leaf.dtype)
        )

    placed = jax.tree.map(place, params, abstract.params)
    opt_state = jax.jit(optimizer.init, out_shardings=_shardings(abstract.opt_state))(placed)
    step = jax.device_put(jnp.int32(0), abstract.step.sharding)
    return TrainState(step=step, params=placed, opt_state=opt_state)


def check_shapes(params: Any, wanted: Any, flaw: str) -> None:
    """Refuse params that are not of the network.

    Args:
      params: a tree of arrays.
      wanted: the network's tree of arrays, or of their shapes.
      flaw: the message, with places for {name}, {given} and {wanted}; a shape is None where there is no such array.

    Raises:
      UserError: a param is missing, superfluous or of another shape.
    """
    ours, theirs = _shapes(params), _shapes(wanted)
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            raise UserError(flaw.format(name=name, given=ours.get(name), wanted=theirs.get(name)))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves
    }
