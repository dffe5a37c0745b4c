"""Optimisers from optax, with the decay mask and clipping, and the logical axes of their state.

Layers are stacked in one array for the scan over layers. For AdamW this makes no difference, because it acts on
each element. LAMB and Adafactor scale by the norm of a parameter. Here they use the norm of one layer's parameter,
separately for each index of the "layers" axis. Muon and NorMuon are in `pretrain.optim.muon`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from pretrain.optim import muon
from pretrain.optim.config import OptimizerConfig

LeafFunction = Callable[[jax.Array, jax.Array], jax.Array]
"""(update, param or another array of its shape) -> update, for one parameter."""

ADAFACTOR_CLIP = 1.0  # Shazeer and Stern 2018, section 6: threshold d on the root mean square of an update
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
    - normuon: Li et al. 2025: muon, with even sizes of the neurons' updates (`pretrain.optim.muon`).
    - stable_adamw: Wortsman et al. 2023, algorithm 2: adamw, with a smaller step for a parameter whose gradient is
      large beside its second moment.

    Args:
      config: `config.optimizer`.
      schedule: learning rate by step (see `pretrain.optim.learning_rates`).
      decay_mask: the tree of params with True where weight decay applies.
      params_axes: the tree of params with the logical axes of each; tells which are stacked layers. Without
        it each array counts as one parameter.
    """
    if params_axes is None:
        params_axes = jax.tree.map(lambda _: (), decay_mask)
    decay = _decay(config, decay_mask, params_axes)
    scale = optax.scale_by_learning_rate(schedule)
    adam = optax.scale_by_adam(
        b1=config.beta1, b2=config.beta2, eps=config.eps, mu_dtype=muon.first_moment_dtype(config)
    )
    match config.name:
        case "adamw":
            parts = [adam, decay, scale]
        case "lamb":
            parts = [adam, decay, _by_parameter(_trust_ratio, params_axes, only=decay_mask), scale]
        case "adafactor":
            clip = _by_parameter(_clip_rms, params_axes)
            relative = _by_parameter(_scale_by_param_rms, params_axes)
            parts = [optax.scale_by_factored_rms(), clip, relative, decay, scale]
        case "muon" | "normuon":
            parts = [muon.muon_or(adam, config, params_axes), decay, scale]
        case "stable_adamw":
            parts = [_smaller_steps(optax.chain(adam, decay), config, params_axes), scale]
        case _:
            raise ValueError(f"unknown optimizer {config.name!r}")
    optimizer = optax.chain(*parts)
    return _clip_by_global_norm(optimizer, config.clip_norm) if config.clip_norm > 0 else optimizer


def opt_state_axes(
    optimizer: optax.GradientTransformation, params_shapes: PyTree, params_axes: PyTree
) -> PyTree[tuple[str | None, ...]]:
    """The tree of the optimiser's state with the logical axes of each leaf, a tuple, in its place.

    A moment has its parameter's axes; a factored moment (a parameter's shape less one dimension, or with 1 in place of
    some) those that are left; counters and placeholders are replicated.

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
    if len(shape) == len(param_shape):
        return tuple(name if size == whole else None for name, size, whole in zip(axes, shape, param_shape))
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


def _decay(
    config: OptimizerConfig, decay_mask: PyTree[bool], params_axes: PyTree
) -> optax.GradientTransformation:
    """Weight decay; that of the matrices of the layers may differ. The state has the same tree in both cases."""
    if config.matrix_weight_decay is None:
        return optax.add_decayed_weights(config.weight_decay, mask=decay_mask)
    rates = jax.tree.map(
        lambda decayed, is_matrix: (
            (config.matrix_weight_decay if is_matrix else config.weight_decay)
            if decayed
            else optax.MaskedNode()
        ),
        decay_mask,
        muon.are_matrices(params_axes),
    )

    def add(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        return jax.tree.map(lambda update, param, rate: update + rate * param, updates, params, rates)

    return optax.masked(optax.stateless(add), decay_mask)


def _smaller_steps(
    adamw: optax.GradientTransformationExtraArgs, config: OptimizerConfig, params_axes: PyTree
) -> optax.GradientTransformation:
    """Divide the update of each parameter by the root mean square of g / sqrt(v), if that is above 1.

    g is the gradient and v AdamW's second moment after it (Wortsman et al. 2023, algorithm 2).

    Args:
      adamw: Adam and weight decay.
      config: `config.optimizer`.
      params_axes: the tree of params with the logical axes of each.
    """

    def update(
        gradients: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = adamw.update(gradients, state, params)
        moments = state[0]
        corrected = optax.tree.bias_correction(moments.nu, config.beta2, moments.count)
        squares = jax.tree.map(
            lambda gradient, second: jnp.square(gradient) / jnp.maximum(second, config.eps**2),
            gradients,
            corrected,
        )
        return _each_layer(_clip_by, params_axes, updates, squares), state

    return optax.GradientTransformation(adamw.init, update)


def _by_parameter(
    function: LeafFunction, params_axes: PyTree, only: PyTree[bool] | None = None
) -> optax.GradientTransformation:
    """Apply `function` to each parameter (each layer of stacked ones), or only to those that `only` marks."""
    return optax.stateless(lambda updates, params: _each_layer(function, params_axes, updates, params, only))


def _each_layer(
    function: LeafFunction,
    params_axes: PyTree,
    updates: optax.Updates,
    others: PyTree,
    only: PyTree[bool] | None = None,
) -> optax.Updates:
    """`function` of each update (each layer of stacked ones) and what is at its place in `others`."""

    def leaf(update: jax.Array, other: jax.Array, axes: tuple[str | None, ...], wanted: bool) -> jax.Array:
        if not wanted:
            return update
        if "layers" not in axes:
            return function(update, other)
        layers = axes.index("layers")
        return jax.vmap(function, in_axes=layers, out_axes=layers)(update, other)

    wanted = jax.tree.map(lambda _: True, updates) if only is None else only
    return jax.tree.map(leaf, updates, others, params_axes, wanted)


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


def _clip_by(update: jax.Array, squares: jax.Array) -> jax.Array:
    return update / jnp.maximum(1.0, jnp.sqrt(jnp.mean(squares)))
