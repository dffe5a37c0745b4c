"""Fused attention on GPUs: cuDNN's for rows of one document, and the Triton kernel of jax, which reads segments."""

import math
import warnings

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pretrain.models.kernels.sharded import on_each_device
from pretrain.models.kernels.sight import Sight, WeightDropout
from pretrain.models.matrix_products import platform

BLOCK = 64
"""Queries and keys of a block. A row is a multiple of it."""


def cudnn(
    query: Float[Array, "B S N H"],
    key: Float[Array, "B S N H"],
    value: Float[Array, "B S N H"],
    sight: Sight,
    weight_dropout: WeightDropout,
) -> Float[Array, "B S N H"]:
    """cuDNN's fused attention, for rows of one document with padding after it.

    jax's public function takes the length of each row. What cuDNN gives for padding is not defined, so padding is 0 on
    both sides of it, in both directions. A window is never passed on: cuDNN's own window looks ahead (jax issue 39576).
    """
    assert sight.window is None, "cuDNN has no window to both sides"
    inside = (sight.segments > 0)[..., None, None]
    # A row that is all padding has the length 1: there is no softmax over nothing.
    lengths = jnp.maximum(jnp.sum(sight.segments > 0, axis=1, dtype=jnp.int32), 1)
    attended = jax.nn.dot_product_attention(
        *(jnp.where(inside, x, jnp.zeros((), x.dtype)) for x in (query, key, value)),
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        is_causal=sight.causal,
        implementation="cudnn",
    )
    return jnp.where(inside, attended, jnp.zeros((), attended.dtype))


def triton(
    query: Float[Array, "B S N H"],
    key: Float[Array, "B S N H"],
    value: Float[Array, "B S N H"],
    sight: Sight,
    weight_dropout: WeightDropout,
) -> Float[Array, "B S N H"]:
    """The flash attention of jax's Pallas for GPUs, which keeps the documents of a row apart by their segments.

    On other hardware it is interpreted, for tests.
    """
    assert sight.window is None, "the kernel has no windows"
    with warnings.catch_warnings():
        # jax 0.11 says on import that tokamax takes over from this module.
        warnings.simplefilter("ignore", DeprecationWarning)
        from jax.experimental.pallas.ops.gpu import attention as pallas
    block = min(BLOCK, query.shape[1])
    sizes = pallas.BlockSizes(
        block_q=block,
        block_k=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    scale = 1 / math.sqrt(query.shape[-1])

    def on_one(query: Array, key: Array, value: Array, segments: Int[Array, "b S"]) -> Array:
        attended: Array = pallas.mha(
            query,
            key,
            value,
            segments,
            scale,
            sight.causal,
            sizes,
            interpret=(platform() or jax.default_backend()) != "gpu",
        )
        return attended

    return on_each_device(on_one, query, key, value, sight.segments)
