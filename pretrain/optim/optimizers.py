"""Optimisers from optax, with the decay mask and clipping, and the logical axes of their state.

Layers are stacked in one array for the scan over layers. For AdamW this makes no difference, because it acts on
each element. LAMB and Adafactor scale by the norm of a parameter. Here they use the norm of one layer's parameter,
separately for each index of the "layers" axis.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree
from optax import contrib

from pretrain.config import OptimizerConfig

LeafFunction = Callable[[jax.Array, jax.Array], jax.Array]
"""(update, param) -> update, for one parameter."""

ADAFACTOR_CLIP = 1.0  # Shazeer and Stern 2018, section 6: threshold d on the root mean square of an update
APART = ("layers", "matrices")
"""Logical axes along which an array holds several matrices, each of which Muon makes orthogonal."""
MUON_RMS = 0.2  # Liu et al. 2025, section 2.2: root mean square of an update, as AdamW's typically is
ADAFACTOR_MIN_SCALE = 1e-3  # section 8: epsilon 2, the least scale of a parameter


def make_optimizer(
    config: OptimizerConfig,
    schedule: optax.Schedule,
    decay_mask: PyTree[bool],
    params_axes: PyTree | None = None,
) -> optax.GradientTransformation:
    """The optimiser that `config` asks for: gradients are clipped by their global norm first, if at all.

    - adamw: Loshchilov and Hutter 2019; decay is multiplied by the learning rate, as in PyTorch.
    - lamb: You et al. 2020, algorithm 2; what is exempt from decay is not rescaled either, as in the authors'
      code.
    - adafactor: Shazeer and Stern 2018, without momentum; the learning rate is relative to each parameter's
      scale (section 8). Decay is decoupled and multiplied by the learning rate, as in adamw and lamb. In
      optax.adafactor it is not: a decay of 0.01 would take 1% off the weights at every step. beta1, beta2 and
      eps have no effect.
    - muon: Jordan et al. 2024, for the matrices of the layers; the rest (embeddings, head, biases, norms) by AdamW.
      Updates are scaled as in Liu et al. 2025, section 2.2, so that AdamW's learning rate and decay fit both.

    Args:
      config: `config.optimizer`.
      schedule: learning rate by step (see `pretrain.optim.learning_rates`).
      decay_mask: the tree of params with True where weight decay applies.
      params_axes: the tree of params with the logical axes of each; tells which are stacked layers. Without
        it each array counts as one parameter.
    """
    if params_axes is None:
        params_axes = jax.tree.map(lambda _: (), decay_mask)
    decay = optax.add_decayed_weights(config.weight_decay, mask=decay_mask)
    scale = optax.scale_by_learning_rate(schedule)
    adam = optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.eps)
    match config.name:
        case "adamw":
            parts = [adam, decay, scale]
        case "lamb":
            parts = [adam, decay, _by_parameter(_trust_ratio, params_axes, only=decay_mask), scale]
        case "adafactor":
            clip = _by_parameter(_clip_rms, params_axes)
            relative = _by_parameter(_scale_by_param_rms, params_axes)
            parts = [optax.scale_by_factored_rms(), clip, relative, decay, scale]
        case "muon":
            parts = [_muon_or(adam, config.muon_momentum, params_axes), decay, scale]
        case _:
            raise ValueError(f"unknown optimizer {config.name!r}")
    optimizer = optax.chain(*parts)
    return _clip_by_global_norm(optimizer, config.clip_norm) if config.clip_norm > 0 else optimizer


def opt_state_axes(
    optimizer: optax.GradientTransformation, params_shapes: PyTree, params_axes: PyTree
) -> PyTree[tuple[str | None, ...]]:
    """The tree of the optimiser's state with the logical axes of each leaf, a tuple, in its place.

    A moment has its parameter's axes; a factored moment (a parameter's shape less one dimension) those that
    are left; counters and placeholders are replicated.

    Args:
      optimizer: the optimiser.
      params_shapes: the tree of params, as arrays or `jax.ShapeDtypeStruct`s.
      params_axes: the tree of params with a tuple of logical axis names (or None) for each.
    """
    state = jax.eval_shape(optimizer.init, params_shapes)
    return optax.tree_map_params(
        optimizer,
        lambda leaf, param, axes: (
            leaf if _is_masked(leaf) else _leaf_axes(leaf.shape, param.shape, tuple(axes))
        ),
        state,
        params_shapes,
        params_axes,
        transform_non_params=lambda leaf: (None,) * leaf.ndim,
        is_leaf=_is_masked,
    )


def _is_masked(node: Any) -> bool:
    """Whether a node of an optimiser's state stands for a parameter that another optimiser has."""
    return isinstance(node, optax.MaskedNode)


def _leaf_axes(
    shape: tuple[int, ...], param_shape: tuple[int, ...], axes: tuple[str | None, ...]
) -> tuple[str | None, ...]:
    if shape == param_shape:
        return axes
    candidates = [
        axes[:index] + axes[index + 1 :]
        for index in range(len(param_shape))
        if param_shape[:index] + param_shape[index + 1 :] == shape
    ]
    if not candidates:
        return (None,) * len(shape)
    # A square matrix does not show which side was reduced: axes that differ between the two readings are
    # replicated.
    return tuple(names[0] if len(set(names)) == 1 else None for names in zip(*candidates))


def _clip_by_global_norm(
    optimizer: optax.GradientTransformation, max_norm: float
) -> optax.GradientTransformation:
    """Scale the gradients that `optimizer` gets so that their global norm is at most `max_norm` (Pascanu et al. 2013).

    It wraps the chain instead of being a part of it. So the state has the same tree with and without clipping, and a
    resumed run can turn clipping on or off.

    The factor min(1, max_norm / norm) fuses into the update that follows; optax's select between scaled and
    unscaled gradients does not on CPU, where it doubled the time of a whole AdamW update.
    """

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        factor = jnp.minimum(
            1.0, max_norm / jnp.maximum(optax.tree.norm(updates), jnp.finfo(jnp.float32).tiny)
        )
        return optimizer.update(jax.tree.map(lambda leaf: leaf * factor, updates), state, params)

    return optax.GradientTransformation(optimizer.init, update)


def _by_parameter(
    function: LeafFunction, params_axes: PyTree, only: PyTree[bool] | None = None
) -> optax.GradientTransformation:
    """Apply `function` to each parameter (each layer of stacked ones), or only to those that `only` marks."""

    def leaf(update: jax.Array, param: jax.Array, axes: tuple[str | None, ...], wanted: bool) -> jax.Array:
        if not wanted:
            return update
        if "layers" not in axes:
            return function(update, param)
        layers = axes.index("layers")
        return jax.vmap(function, in_axes=layers, out_axes=layers)(update, param)

    def transform(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        wanted = jax.tree.map(lambda _: True, updates) if only is None else only
        return jax.tree.map(leaf, updates, params, params_axes, wanted)

    return optax.stateless(transform)


def _muon_or(
    other: optax.GradientTransformation, momentum: float, params_axes: PyTree
) -> optax.GradientTransformation:
    """Muon for the matrices of the layers, each made orthogonal by itself; `other` for the rest.

    A map that holds several matrices (ModernBERT's query, key and value, or its feed-forward layer and the gate) has
    one orthogonal update for each, as if they were maps of their own.
    """

    def is_axes(node: Any) -> bool:
        return isinstance(node, tuple)

    def is_numbers(node: Any) -> bool:
        return isinstance(node, contrib.MuonDimensionNumbers)

    def sides(axes: tuple[str | None, ...]) -> contrib.MuonDimensionNumbers | None:
        """The axes of model width against the others (which is input and which output does not matter here)."""
        width = tuple(index for index, name in enumerate(axes) if name == "embed")
        others = tuple(index for index, name in enumerate(axes) if name not in ("embed", *APART))
        is_matrix = "layers" in axes and width and others
        return contrib.MuonDimensionNumbers(width, others) if is_matrix else None

    def scaled(update: jax.Array, numbers: contrib.MuonDimensionNumbers) -> jax.Array:
        largest = max(
            math.prod(update.shape[axis] for axis in side)
            for side in (numbers.reduction_axis, numbers.output_axis)
        )
        return update * (MUON_RMS * math.sqrt(largest))

    labels = jax.tree.map(lambda axes: "muon" if sides(axes) else "other", params_axes, is_leaf=is_axes)
    numbers = jax.tree.map(lambda axes: sides(axes) or optax.MaskedNode(), params_axes, is_leaf=is_axes)

    def scale(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        return jax.tree.map(lambda side, update: scaled(update, side), numbers, updates, is_leaf=is_numbers)

    muon = optax.chain(
        contrib.scale_by_muon(beta=momentum, weight_dimension_numbers=numbers), optax.stateless(scale)
    )
    return optax.partition({"muon": muon, "other": other}, labels)


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x)))


def _trust_ratio(update: jax.Array, param: jax.Array) -> jax.Array:
    param_norm, update_norm = jnp.linalg.norm(param.ravel()), jnp.linalg.norm(update.ravel())
    known = (param_norm > 0) & (update_norm > 0)
    return update * jnp.where(known, param_norm / jnp.where(known, update_norm, 1.0), 1.0)


def _clip_rms(update: jax.Array, param: jax.Array) -> jax.Array:
    return update / jnp.maximum(1.0, _rms(update) / ADAFACTOR_CLIP)


def _scale_by_param_rms(update: jax.Array, param: jax.Array) -> jax.Array:
    return update * jnp.maximum(_rms(param), ADAFACTOR_MIN_SCALE)
