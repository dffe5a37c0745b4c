"""Layer norm, GELU and attention with gradients of their own, which save little: fast on TPUs in bfloat16.

JAX's own gradients save what they read as it was computed, in float32, several arrays for each of these functions.
A TPU then spends more time on writing and reading these arrays than on the arithmetic. The functions here save what
their backward pass reads in the compute type. They compute what the references compute (`pretrain.models.layers` and
`pretrain.models.attention`), up to rounding of the compute type; in float32 the gradients are equal to about 1e-6.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pretrain.models.matrix_products import platform

LARGEST_SCORE = 80.0
"""Scores are clipped to this size: their exponentials, and a sum of 2^16 of them, are finite in float32."""


LARGEST_LOGIT = 70.0
"""Logits are capped at this size in the loss: the exponentials of a million of them have a finite sum in float32."""


def are_used(dtype: jnp.dtype) -> bool:
    """Whether the program being traced takes these functions: on a TPU, in a type shorter than float32."""
    return dtype.itemsize < 4 and platform() == "tpu"


@jax.custom_jvp
def capped(logits: Float[Array, "..."]) -> Float[Array, "..."]:
    """Logits of at most `LARGEST_LOGIT` in size. The gradient passes, so a loss of them still moves a larger one."""
    return jnp.clip(logits, -LARGEST_LOGIT, LARGEST_LOGIT)


capped.defjvp(lambda primals, tangents: (capped(*primals), *tangents))


@jax.custom_vjp
def cast_once(kernel: Float[Array, "..."]) -> Float[Array, "..."]:
    """A kernel that was rounded to the compute type. Else XLA rounds it again in each product that reads it."""
    return jax.lax.optimization_barrier(kernel)


cast_once.defvjp(lambda kernel: (cast_once(kernel), None), lambda _, gradient: (gradient,))


@jax.custom_vjp
def unstack(x: Float[Array, "B S P ..."]) -> list[Float[Array, "B S ..."]]:
    """The parts along the third axis. The gradient of each is finished before they are put together.

    Else XLA's CPU compiler computes them within the copy, one element at a time.
    """
    return [x[:, :, part] for part in range(x.shape[2])]


unstack.defvjp(
    lambda x: (unstack(x), None),
    lambda _, gradients: (jnp.stack(jax.lax.optimization_barrier(gradients), axis=2),),
)


def look_up(table: Float[Array, "V E"], rows: Int[Array, "..."]) -> Float[Array, "... E"]:
    """Rows of a table. The gradient is summed in float32, and rounded to the table's type afterwards."""
    return _look_up(table, rows, table.shape[0])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _look_up(table: Array, rows: Array, size: int) -> Array:
    return table[rows]


def _look_up_backward(size: int, rows: Array, gradient: Array) -> tuple[Array, None]:
    total = jnp.zeros((size, gradient.shape[-1]), jnp.float32).at[rows].add(gradient.astype(jnp.float32))
    return total.astype(gradient.dtype), None


_look_up.defvjp(lambda table, rows, size: (_look_up(table, rows, size), rows), _look_up_backward)


def layer_norm(
    x: Float[Array, "... D"],
    scale: Float[Array, " D"],
    bias: Float[Array, " D"] | None,
    eps: float,
    dtype: jnp.dtype | None = None,
) -> Float[Array, "... D"]:
    """Layer normalisation of the last axis, computed in float32. Saves the normalised array in the type of the result.

    Args:
      x: what is normalised.
      scale, bias: of each element; without bias None.
      eps: added to the variance.
      dtype: of the result; None is that of `x`.
    """
    return _layer_norm(x.astype(jnp.float32), scale, bias, eps, jnp.dtype(dtype or x.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _layer_norm(wide: Array, scale: Array, bias: Array | None, eps: float, dtype: jnp.dtype) -> Array:
    return _layer_norm_forward(wide, scale, bias, eps, dtype)[0]


def _layer_norm_forward(
    wide: Array, scale: Array, bias: Array | None, eps: float, dtype: jnp.dtype
) -> tuple[Array, tuple[Array, Array, Array, Array | None]]:
    # Both means are of `x`, so that the product before the norm can give both: the variance as the mean square of the
    # centred array would take another pass.
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(wide), axis=-1, keepdims=True) - jnp.square(mean)
    inverse = jax.lax.rsqrt(jnp.maximum(variance, 0.0) + eps)
    normalised = (wide - mean) * inverse
    y = normalised * scale if bias is None else normalised * scale + bias
    return y.astype(dtype), (normalised.astype(dtype), inverse, scale, bias)


def _layer_norm_backward(
    eps: float, dtype: jnp.dtype, saved: tuple[Array, Array, Array, Array | None], gradient: Array
) -> tuple[Array, Array, Array | None]:
    normalised, inverse, scale, bias = saved
    rows = tuple(range(normalised.ndim - 1))
    normalised, gradient = normalised.astype(jnp.float32), gradient.astype(jnp.float32)
    scaled = gradient * scale
    along = jnp.mean(scaled * normalised, axis=-1, keepdims=True)
    dx = inverse * (scaled - jnp.mean(scaled, axis=-1, keepdims=True) - normalised * along)
    d_bias = None if bias is None else jnp.sum(gradient, axis=rows)
    return dx, jnp.sum(gradient * normalised, axis=rows), d_bias


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gelu(x: Float[Array, "..."], unrolled: bool) -> Float[Array, "..."]:
    """The GELU, x * Phi(x). Saves its derivative in the type of `x`.

    Phi is 0.5 + 0.5 tanh of a polynomial in x, within 3e-5 of the exact one: less than half of bfloat16's last place.

    Args:
      x: its argument.
      unrolled: whether no loop runs the layers. XLA then would keep float32 arrays, which a barrier prevents. In a
        loop, the barrier would keep it from writing both arrays directly to the stack of all layers.
    """
    return _gelu_forward(x, unrolled)[0]


def _gelu_forward(x: Array, unrolled: bool) -> tuple[Array, Array]:
    wide = x.astype(jnp.float32)
    square = jnp.minimum(jnp.square(wide), 36.0)  # beyond, the tanh is 1
    first, third, fifth = 0.797487584, 0.0370241879, -0.000354543175
    phi = 0.5 + 0.5 * jnp.tanh(wide * (first + square * (third + square * fifth)))
    slope = 2 * first + square * (6 * third + square * (10 * fifth))  # of the logarithm of phi / (1 - phi)
    y = wide * phi
    derivative = (phi + y * (1 - phi) * slope).astype(x.dtype)
    y = y.astype(x.dtype)
    return jax.lax.optimization_barrier((y, derivative)) if unrolled else (y, derivative)


def _gelu_backward(unrolled: bool, derivative: Array, gradient: Array) -> tuple[Array]:
    return (gradient * derivative,)


gelu.defvjp(_gelu_forward, _gelu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def attend(
    query: Float[Array, "B N Q H"],
    key: Float[Array, "B N S H"],
    value: Float[Array, "B N S H"],
    visible: Bool[Array, "B 1 S Q"],
    keep: Bool[Array, "B N S Q"] | None,
    keep_scale: float,
    unrolled: bool,
) -> Float[Array, "B N Q H"]:
    """Attention in one pass over the scores, which are laid out with the keys before the queries.

    The exponentials are not shifted by the largest score of a query; the values are divided by their sum afterwards.
    So scores are exact up to `LARGEST_SCORE` in size, and clipped beyond.

    Args:
      query, key, value: the heads.
      visible: whether a query sees a key.
      keep: the weights that dropout keeps; None keeps all.
      keep_scale: what the kept weights are multiplied by.
      unrolled: whether no loop runs the layers: barriers then keep XLA from arrays in float32.
    """
    return _attend_forward(query, key, value, visible, keep, keep_scale, unrolled)[0]


def _weights(query: Array, key: Array, visible: Array) -> Float[Array, "B N S Q"]:
    scores = jnp.einsum("BNSH,BNQH->BNSQ", key, query, preferred_element_type=jnp.float32)
    scores = jnp.clip(scores / math.sqrt(query.shape[-1]), -LARGEST_SCORE, LARGEST_SCORE)
    return jnp.where(visible, jnp.exp(scores), 0.0)


def _attend_forward(
    query: Array,
    key: Array,
    value: Array,
    visible: Array,
    keep: Array | None,
    keep_scale: float,
    unrolled: bool,
) -> tuple[Array, tuple[Array | None, ...]]:
    weights = _weights(query, key, visible)
    inverse = 1 / jnp.sum(weights, axis=2, keepdims=True)
    weights = weights.astype(value.dtype)
    kept = weights if keep is None else jnp.where(keep, weights, jnp.zeros((), weights.dtype))
    out = jnp.einsum("BNSQ,BNSH->BNQH", kept, value, preferred_element_type=jnp.float32)
    out = (out * (jnp.swapaxes(inverse, 2, 3) * keep_scale)).astype(value.dtype)
    if unrolled:
        out = jax.lax.optimization_barrier(out)
    return out, (query, key, value, weights, inverse, out, keep)


def _attend_backward(
    keep_scale: float, unrolled: bool, saved: tuple[Array, ...], gradient: Array
) -> tuple[Array, Array, Array, None, None]:
    query, key, value, weights, inverse, out, keep = saved
    if unrolled:
        gradient = jax.lax.optimization_barrier(gradient)
    wide = gradient.astype(jnp.float32)
    delta = jnp.sum(wide * out.astype(jnp.float32), axis=-1)[:, :, None, :] * inverse
    scaled = (wide * (jnp.swapaxes(inverse, 2, 3) * keep_scale)).astype(gradient.dtype)
    kept = weights if keep is None else jnp.where(keep, weights, jnp.zeros((), weights.dtype))
    d_value = jnp.einsum("BNSQ,BNQH->BNSH", kept, scaled)
    d_weights = jnp.einsum("BNSH,BNQH->BNSQ", value, scaled, preferred_element_type=jnp.float32)
    if keep is not None:
        d_weights = jnp.where(keep, d_weights, 0.0)
    d_scores = weights.astype(jnp.float32) * (d_weights - delta) / math.sqrt(query.shape[-1])
    d_scores = d_scores.astype(query.dtype)
    d_query = jnp.einsum("BNSQ,BNSH->BNQH", d_scores, key)
    d_key = jnp.einsum("BNSQ,BNQH->BNSH", d_scores, query)
    return d_query, d_key, d_value, None, None


attend.defvjp(_attend_forward, _attend_backward)
