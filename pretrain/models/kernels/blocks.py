"""Attention within a window by blocks, on any hardware, beside the kernel of the layers that see the whole document."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pretrain.models.dropout import dropout
from pretrain.models.kernels.sight import Sight, WeightDropout
from pretrain.models.matrix_products import einsum

BLOCKS = 3
"""A block of queries sees so many blocks of keys: its own, and one to each side."""


def is_shorter(window: int, length: int) -> bool:
    """Whether a window hides so much of a row of `length` tokens that blocks have fewer pairs than the whole row."""
    return 0 < BLOCKS * window < length


def by_blocks(
    query: Float[Array, "B Q N H"],
    key: Float[Array, "B S N H"],
    value: Float[Array, "B S N H"],
    sight: Sight,
    weight_dropout: WeightDropout,
) -> Float[Array, "B Q N H"]:
    """Attention within a window, by blocks as wide as it: each block of queries reads its keys and those at both sides.

    Time and memory are linear in S. The scores are [B, C, N, W, 3 W] for C blocks of W tokens, in float32. The window
    is an int for which `is_shorter` is true.
    """
    assert isinstance(sight.window, int), "the blocks are as wide as the window"
    width = sight.window
    rows, queries = query.shape[:2]
    blocks = -(-queries // width)

    def around(x: Array) -> Array:
        """Blocks [B, C, 3 W, ...]: each with the block before it and the block after it."""
        after = max((blocks + 1) * width - x.shape[1], 0)
        x = jnp.pad(x, [(0, 0), (width, after), *[(0, 0)] * (x.ndim - 2)])[:, : (blocks + 2) * width]
        x = x.reshape(rows, blocks + 2, width, *x.shape[2:])
        return jnp.concatenate([x[:, :-2], x[:, 1:-1], x[:, 2:]], axis=2)

    def own(x: Array) -> Array:
        """Blocks [B, C, W, ...]."""
        x = jnp.pad(x, [(0, 0), (0, blocks * width - queries), *[(0, 0)] * (x.ndim - 2)])
        return x.reshape(rows, blocks, width, *x.shape[2:])

    # Numbers of documents from 1, so that no token sees what pads the row to whole blocks, which is 0.
    documents = sight.segments + 1
    distance = jnp.arange(BLOCKS * width) - width - jnp.arange(width)[:, None]
    near = (jnp.abs(distance) <= width) & (distance <= 0 if sight.causal else True)
    mask = own(documents[:, :queries])[:, :, :, None] == around(documents)[:, :, None, :]
    mask = (mask & near)[:, :, None]
    scale = 1 / math.sqrt(query.shape[-1])
    scores = einsum("BCQNH,BCSNH->BCNQS", own(query) * scale, around(key), jnp.float32)
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    weights = dropout(weights, weight_dropout.rate, weight_dropout.key, weight_dropout.bits)
    attended = einsum("BCNQS,BCSNH->BCQNH", weights, around(value))
    return attended.reshape(rows, blocks * width, *query.shape[2:])[:, :queries]
