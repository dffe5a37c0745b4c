"""Attention by chunks of queries, for long rows on any hardware: memory is linear in the row.

The scores of one chunk are [B, N, C, S]. They are computed again in the backward pass (Rabe & Staats 2021, "Self-
attention does not need O(n^2) memory"). A chunk sees all keys at once, so its softmax is the reference's.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pretrain.models.kernels.sight import Compute, Sight, WeightDropout

CHUNK = 512
"""Queries of a chunk C, at most."""
SMALLEST = 128
"""Rows that no chunk of this size divides are computed whole."""


def in_chunks(compute: Compute) -> Compute:
    """A kernel that runs another one, which writes its scores out, by chunks of queries."""

    def chunked(
        query: Float[Array, "B Q N H"],
        key: Float[Array, "B S N H"],
        value: Float[Array, "B S N H"],
        sight: Sight,
        weight_dropout: WeightDropout,
    ) -> Float[Array, "B Q N H"]:
        size = math.gcd(query.shape[1], CHUNK)
        if size < SMALLEST or query.shape[1] == size:
            return compute(query, key, value, sight, weight_dropout)
        plan = _Chunks(compute, size, sight.causal, weight_dropout.rate, weight_dropout.bits)
        return _attend(plan, query, key, value, (sight.segments, sight.window, weight_dropout.key))

    return chunked


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """What is known of the chunks when the program is traced."""

    compute: Compute
    size: int
    causal: bool
    dropout: float
    bits: int

    def attend(self, index: Array, query: Array, key: Array, value: Array, others: Any) -> Array:
        """What the queries of one chunk attend to."""
        segments, window, dropout_key = others
        if dropout_key is not None:
            dropout_key = jax.random.fold_in(dropout_key, index)
        sight = Sight(segments, window, self.causal, start=index * self.size)
        return self.compute(query, key, value, sight, WeightDropout(self.dropout, dropout_key, self.bits))

    def split(self, x: Array) -> Array:
        """Rows [B, Q, N, H] as chunks [chunks, B, C, N, H]."""
        return jnp.moveaxis(x.reshape(x.shape[0], -1, self.size, *x.shape[2:]), 1, 0)

    def join(self, chunks: Array) -> Array:
        """The rows of chunks."""
        return jnp.moveaxis(chunks, 0, 1).reshape(chunks.shape[1], -1, *chunks.shape[3:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: _Chunks, query: Array, key: Array, value: Array, others: Any) -> Array:
    chunks = plan.split(query)

    def run(_: None, chunk: tuple[Array, Array]) -> tuple[None, Array]:
        return None, plan.attend(*chunk, key, value, others)

    return plan.join(jax.lax.scan(run, None, (jnp.arange(len(chunks)), chunks))[1])


def _forward(plan: _Chunks, query: Array, key: Array, value: Array, others: Any) -> tuple[Array, Any]:
    return _attend(plan, query, key, value, others), (query, key, value, others)


def _backward(plan: _Chunks, saved: Any, gradient: Array) -> tuple[Array, Array, Array, None]:
    """Gradients of key and value are added up over chunks in float32."""
    query, key, value, others = saved
    chunks = plan.split(query)

    def run(
        sums: tuple[Array, Array], chunk: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Array], Array]:
        index, queries, gradients = chunk
        _, pull = jax.vjp(lambda q, k, v: plan.attend(index, q, k, v, others), queries, key, value)
        d_query, *d_others = pull(gradients)
        d_key, d_value = (total + d.astype(jnp.float32) for total, d in zip(sums, d_others))
        return (d_key, d_value), d_query

    start = (jnp.zeros(key.shape, jnp.float32), jnp.zeros(value.shape, jnp.float32))
    chunks_and_gradients = (jnp.arange(len(chunks)), chunks, plan.split(gradient))
    (d_key, d_value), d_query = jax.lax.scan(run, start, chunks_and_gradients)
    return plan.join(d_query), d_key.astype(key.dtype), d_value.astype(value.dtype), None


_attend.defvjp(_forward, _backward)
