"""Splash attention, the flash attention of jax for TPUs: the scores stay in a core's memory, and whole blocks beyond a
window are left out.

On other hardware the kernel is interpreted, for tests.
"""

import math
from typing import Any

import jax
from jaxtyping import Array, Float, Int

from pretrain.models.kernels.sharded import on_each_device
from pretrain.models.kernels.sight import Sight, WeightDropout
from pretrain.models.matrix_products import platform

LANES = 128
"""Rows are a multiple of this: the width of a TPU's registers."""
BLOCK = 512
"""Queries and keys of a block, at most."""
NARROW = 256
"""The same in layers that see a window."""


def attend(
    query: Float[Array, "B S N H"],
    key: Float[Array, "B S N H"],
    value: Float[Array, "B S N H"],
    sight: Sight,
    weight_dropout: WeightDropout,
) -> Float[Array, "B S N H"]:
    """Attention of all S tokens of a row; without dropout, and with windows that are known to the program."""
    from jax.experimental.pallas.ops.tpu import (
        splash_attention as splash,
    )  # half a second, for this kernel alone

    assert sight.window is None or isinstance(sight.window, int), "blocks are chosen before the program runs"
    length, scale = query.shape[1], 1 / math.sqrt(query.shape[-1])
    mask = _mask(length, sight)
    block = math.gcd(length, NARROW if sight.window else BLOCK)
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )

    def on_one(query: Array, key: Array, value: Array, segments: Int[Array, "b S"]) -> Array:
        kernel = splash.make_splash_mha_single_device(
            splash.MultiHeadMask([mask] * query.shape[2]),
            block_sizes=sizes,
            interpret=(platform() or jax.default_backend()) != "tpu",
        )
        heads_first = (x.swapaxes(1, 2) for x in (query * scale, key, value))
        attended: Array = jax.vmap(kernel)(*heads_first, splash.SegmentIds(segments, segments))
        return attended.swapaxes(1, 2)

    return on_each_device(on_one, query, key, value, sight.segments)


def _mask(length: int, sight: Sight) -> Any:
    """The tokens that a token sees, documents left out."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    shape, window = (length, length), sight.window
    if window is not None:
        return splash.LocalMask(shape, (int(window), 0 if sight.causal else int(window)), 0)
    return splash.CausalMask(shape) if sight.causal else splash.FullMask(shape)
