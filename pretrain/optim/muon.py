"""Muon and NorMuon: orthogonal updates for the matrices of the layers; another optimiser for the rest.

A matrix is an array with a `layers` axis, an axis of model width and another one. Heads and head width count as one
axis. Each layer's matrix, and each matrix of a fused map, is made orthogonal by itself. So is, if the config says so,
each head of query, key and value.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree
from optax import contrib

from pretrain.optim.config import OptimizerConfig

APART = ("layers", "matrices")
"""Logical axes along which an array holds several matrices, each of which Muon makes orthogonal."""
NAMES = ("muon", "normuon")
"""Values of `config.optimizer.name` for which the matrices of the layers have orthogonal updates."""
NORMUON_EPS = 1e-8
"""Added to the root of NorMuon's second moment."""
Steps = tuple[tuple[float, float, float], ...]

NEWTON_SCHULZ: Steps = ((3.4445, -4.7750, 2.0315),) * 5
"""Coefficients of X, (X X^T) X and (X X^T)^2 X in each step (Jordan et al. 2024); optax has the same."""
MINIMAX: Steps = (
    (8.4268, -24.9361, 18.4925),
    (4.0344, -2.8859, 0.5214),
    (3.6617, -2.6352, 0.4947),
    (2.7787, -2.0040, 0.4287),
)
"""Four steps, each the polynomial that is nearest to 1 on the range that the step before leaves (the method of Amsel et
al. 2025). The first range is 0.002 to 1; later ones end 2% above their largest value, as room for rounding."""
ROOM = 1.02
"""Before the steps of MINIMAX, singular values are at most 1 / ROOM: above 1 its steps diverge."""
LEAST_NORM = 0.1
"""Smaller norms count as this. A matrix of Frobenius' norm 1 has a larger one, up to 10,000 rows. One whose gradient
is next to nothing beside optax's epsilon has not, and its update stays small."""
UPDATE_RMS = 0.2  # Liu et al. 2025, section 2.2: root mean square of an update, as AdamW's typically is

Axes = tuple[str | None, ...]


def muon_or(
    other: optax.GradientTransformation, config: OptimizerConfig, params_axes: PyTree[Axes]
) -> optax.GradientTransformation:
    """Muon or NorMuon for the matrices of the layers, each by itself; `other` for the rest.

    A map that holds several matrices (ModernBERT's query, key and value, or its feed-forward layer and the gate) has
    one orthogonal update for each, as if they were maps of their own.

    - muon: Jordan et al. 2024, with Nesterov's momentum. The root mean square of an update is 0.2 where all singular
      values come out as 1 (Liu et al. 2025, section 2.2); where those of the momentum fall fast it is less.
    - normuon: Li et al. 2025, algorithm 1, with the Nesterov momentum of the authors' code. The orthogonal update of
      each neuron (an element of the output side) is divided by the root of a moving average of its mean square. Then
      each matrix is scaled to a root mean square of 0.2.

    Args:
      other: the optimiser of all other parameters.
      config: `config.optimizer`.
      params_axes: the tree of params with the logical axes of each.
    """
    per_head = config.orthogonal_per_head
    numbers = jax.tree.map(
        lambda axes: _sides(axes, per_head) or optax.MaskedNode(), params_axes, is_leaf=_is_axes
    )
    dtype = config.orthogonal_dtype  # "auto" is settled by the run (`OptimizerConfig.settled`)
    by_optax = config.orthogonal_steps == "newton_schulz" and dtype != "bfloat16"
    orthogonal = contrib.scale_by_muon(
        beta=config.muon_momentum,
        weight_dimension_numbers=numbers,
        mu_dtype=first_moment_dtype(config),
        ns_steps=len(NEWTON_SCHULZ) if by_optax else 0,
    )
    if not by_optax:
        iterate = optax.stateless(
            lambda updates, params: jax.tree.map(
                lambda sides, update: _orthogonal(sides, update, dtype, config.orthogonal_steps),
                numbers,
                updates,
                is_leaf=_is_numbers,
            )
        )
        # Its state is empty, and is left out: the tree of the state depends neither on the type nor on the steps.
        orthogonal = _then(orthogonal, iterate)
    if config.name == "normuon":
        scaled = _by_neuron(config.normuon_beta2, numbers, params_axes)
    else:
        scaled = optax.stateless(lambda updates, params: _at_adamws_scale(updates, numbers))
    labels = jax.tree.map(
        lambda axes: "muon" if _sides(axes, per_head) else "other", params_axes, is_leaf=_is_axes
    )
    return optax.partition({"muon": optax.chain(orthogonal, scaled), "other": other}, labels)


def _then(
    first: optax.GradientTransformation, last: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Both, one after the other, with the state of the first; the last has none."""

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = first.update(updates, state, params)
        return last.update(updates, optax.EmptyState(), params)[0], state

    return optax.GradientTransformation(first.init, update)


def _orthogonal(sides: contrib.MuonDimensionNumbers, update: jax.Array, dtype: str, steps: str) -> jax.Array:
    """Make each matrix of an update nearly orthogonal by odd polynomials of degree 5.

    Args:
      sides: the two sides of each matrix.
      update: matrices of norm 1 or less (optax divides by Frobenius' norm).
      dtype: the type of the factors of products; sums are float32. On a CPU, XLA multiplies bfloat16 fast only if the
        result is float32.
      steps: `config.optimizer.orthogonal_steps`.
    """
    inner, outer = (tuple(side) for side in sides)
    apart = tuple(axis for axis in range(update.ndim) if axis not in (*inner, *outer))
    small, large = sorted((inner, outer), key=lambda side: math.prod(update.shape[axis] for axis in side))
    order = (*apart, *small, *large)
    turned = update.transpose(order)
    rows = math.prod(update.shape[axis] for axis in small)
    matrices = turned.reshape(-1, rows, math.prod(update.shape[axis] for axis in large))
    x = matrices.astype(jnp.bfloat16 if dtype == "bfloat16" else jnp.float32)
    if steps == "minimax":
        x = _first_of_minimax(x)
        for coefficients in MINIMAX[1:]:
            x = _polynomial(x, _product(x, x, "Mij,Mkj->Mik"), coefficients)
    else:
        for coefficients in NEWTON_SCHULZ:
            x = _polynomial(x, _product(x, x, "Mij,Mkj->Mik"), coefficients, rounded=True)
    back = tuple(order.index(axis) for axis in range(update.ndim))
    return x.astype(update.dtype).reshape(turned.shape).transpose(back)


def _first_of_minimax(x: jax.Array) -> jax.Array:
    """The first step of MINIMAX on matrices [M, rows, columns], divided by ROOM times Schatten's norm of order 4.

    That norm is the root of Frobenius' norm of X X^T, which the step computes in any case (Grishina et al. 2025). It
    bounds the singular values more tightly than Frobenius' norm of X does: for n equal ones by n^(1/4) and not n^(1/2)
    times their size. So fewer steps are enough.
    """
    square = _product(x, x, "Mij,Mkj->Mik")
    norm = jnp.sqrt(jnp.sqrt(jnp.sum(jnp.square(square), axis=(1, 2), keepdims=True)))
    share = 1 / (ROOM * jnp.maximum(norm, LEAST_NORM))
    return _polynomial(x, square * share**2, MINIMAX[0], share)


def _polynomial(
    x: jax.Array,
    square: jax.Array,
    coefficients: tuple[float, float, float],
    share: jax.Array | float = 1.0,
    rounded: bool = False,
) -> jax.Array:
    """(first + third Y Y^T + fifth (Y Y^T)^2) Y, in the type of X, where Y is share X.

    Args:
      x: X.
      square: Y Y^T in float32.
      coefficients: first, third and fifth.
      share: see above.
      rounded: first X has the type of X before the sum, as in runs that began before MINIMAX; else float32.
    """
    first, third, fifth = coefficients
    short = square.astype(x.dtype)
    sums = third * square + fifth * _product(short, short, "Mij,Mjk->Mik")
    linear = first * (x if rounded else x.astype(jnp.float32))
    return (share * (linear + _product(sums.astype(x.dtype), x, "Mij,Mjk->Mik"))).astype(x.dtype)


def _product(left: jax.Array, right: jax.Array, subscripts: str) -> jax.Array:
    return jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)


def first_moment_dtype(config: OptimizerConfig) -> Any:
    """The type of first moments as optax takes it; None leaves it to the parameter."""
    return None if config.moment_dtype == "float32" else jnp.dtype(config.moment_dtype)


def are_matrices(params_axes: PyTree[Axes]) -> PyTree[bool]:
    """The tree of params with True where Muon updates a parameter."""
    return jax.tree.map(lambda axes: _sides(axes) is not None, params_axes, is_leaf=_is_axes)


def _is_axes(node: Any) -> bool:
    return isinstance(node, tuple)


def _is_numbers(node: Any) -> bool:
    return isinstance(node, contrib.MuonDimensionNumbers)


def _sides(axes: Axes, per_head: bool = False) -> contrib.MuonDimensionNumbers | None:
    """The axes of model width against the others (which is input and which output does not matter to Muon).

    With `per_head`, heads that a kernel maps to are matrices of their own (Kimi K3, arXiv 2607.24653, section 2.5).
    """
    width = tuple(index for index, name in enumerate(axes) if name == "embed")
    apart = (*APART, "heads") if per_head and axes[-1:] != ("embed",) else APART
    others = tuple(index for index, name in enumerate(axes) if name not in ("embed", *apart))
    is_matrix = "layers" in axes and width and others
    return contrib.MuonDimensionNumbers(width, others) if is_matrix else None


def _inputs(axes: Axes) -> tuple[int, ...]:
    """The axes of a matrix's input side: a kernel has them before those of its output side."""
    sides = _sides(axes)
    assert sides is not None
    width, others = sides
    return min((width, others), key=min)


def _at_adamws_scale(updates: optax.Updates, numbers: PyTree) -> optax.Updates:
    """Orthogonal updates with a root mean square of 0.2."""

    def scaled(sides: contrib.MuonDimensionNumbers, update: jax.Array) -> jax.Array:
        largest = max(math.prod(update.shape[axis] for axis in side) for side in sides)
        return update * (UPDATE_RMS * math.sqrt(largest))

    return jax.tree.map(scaled, numbers, updates, is_leaf=_is_numbers)


class ByNeuronState(NamedTuple):
    """The state of NorMuon beside Muon's."""

    nu: optax.Updates
    """The moving average of each neuron's mean square: a parameter's shape with 1 for each axis of its input side."""


def _by_neuron(beta2: float, numbers: PyTree, params_axes: PyTree[Axes]) -> optax.GradientTransformation:
    """Divide each neuron's update by the root of its second moment, and scale each matrix to the RMS of AdamW."""
    known = {
        jax.tree_util.keystr(path): axes
        for path, axes in jax.tree_util.tree_flatten_with_path(params_axes, is_leaf=_is_axes)[0]
    }

    def init(params: optax.Params) -> ByNeuronState:
        def zeros(path: Any, param: jax.Array) -> jax.Array:
            inputs = _inputs(known[jax.tree_util.keystr(path)])
            shape = [1 if axis in inputs else size for axis, size in enumerate(param.shape)]
            return jnp.zeros(shape, jnp.float32)

        return ByNeuronState(jax.tree_util.tree_map_with_path(zeros, params))

    def update(
        updates: optax.Updates, state: ByNeuronState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ByNeuronState]:
        def second(path: Any, update: jax.Array, nu: jax.Array) -> jax.Array:
            inputs = _inputs(known[jax.tree_util.keystr(path)])
            return beta2 * nu + (1 - beta2) * jnp.mean(jnp.square(update), axis=inputs, keepdims=True)

        def scaled(update: jax.Array, nu: jax.Array, sides: contrib.MuonDimensionNumbers) -> jax.Array:
            even = update / (jnp.sqrt(nu) + NORMUON_EPS)
            rms = jnp.sqrt(jnp.mean(jnp.square(even), axis=(*sides[0], *sides[1]), keepdims=True))
            return even * (UPDATE_RMS / jnp.maximum(rms, jnp.finfo(jnp.float32).tiny))

        nu = jax.tree_util.tree_map_with_path(second, updates, state.nu)
        return jax.tree.map(scaled, updates, nu, numbers), ByNeuronState(nu)

    return optax.GradientTransformation(init, update)
