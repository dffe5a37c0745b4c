"""Dropout with masks that cost a third of jax.random.bernoulli's. Each device draws the masks of its own rows only.

Threefry's masks are the same on every mesh. With the hardware's generator (rbg), each shard of the rows has its own
masks.
"""

import math

import jax
import jax.numpy as jnp
from jax.extend.random import threefry2x32_p
from jaxtyping import Array, Bool, Float, Key, UInt32

from pretrain.devices.mesh import spec

LEVELS = 1 << 16


def dropout(x: Float[Array, "..."], rate: float, key: Key[Array, ""] | None) -> Float[Array, "..."]:
    """Zero a share `rate` of `x` and scale the rest to keep the mean; without a key return `x` itself.

    The rate is rounded to 1/65536 and the scale follows the rounded rate, so the mean is exact.
    """
    keep, scale = kept(key, x.shape, rate)
    if keep is None:
        return x
    return jnp.where(keep, x * jnp.asarray(scale, x.dtype), jnp.zeros((), x.dtype))


def kept(
    key: Key[Array, ""] | None, shape: tuple[int, ...], rate: float
) -> tuple[Bool[Array, "..."] | None, float]:
    """Which elements dropout keeps (None: all), and their factor; the rate is rounded as in `dropout`."""
    threshold = round(rate * LEVELS)
    if key is None or threshold == 0:
        return None, 1.0
    return keep_mask(key, shape, threshold), LEVELS / (LEVELS - threshold)


def keep_mask(key: Key[Array, ""], shape: tuple[int, ...], threshold: int) -> Bool[Array, "..."]:
    """True with probability 1 - threshold/65536, independently for each element.

    Each 16-bit half of a generated word decides one element. The halves of the first word decide the first parts of
    the last axis, and so on. All operations are elementwise. So the mask has the layout of the array that it masks,
    and with threefry it does not depend on the mesh.
    """
    draw = _threefry_words if str(jax.random.key_impl(key)) == "threefry2x32" else _words
    halves = [half for word in draw(key, shape) for half in (word & (LEVELS - 1), word >> 16)]
    return jnp.concatenate([half >= threshold for half in halves], axis=-1)[..., : shape[-1]]


def _words(key: Key[Array, ""], shape: tuple[int, ...]) -> list[UInt32[Array, "..."]]:
    """One word for two elements. Each device draws its own rows; without `shard_map`, it would draw all rows."""
    counts = (*shape[:-1], math.ceil(shape[-1] / 2))
    mesh = jax.sharding.get_abstract_mesh()
    split = spec(mesh, ("batch",), shape)[0] if not mesh.empty else None
    rows = (split,) if isinstance(split, str) else split
    if rows is None:
        return [jax.random.bits(key, counts, jnp.uint32)]
    share = (counts[0] // math.prod(mesh.shape[axis] for axis in rows), *counts[1:])

    def draw(key: Key[Array, ""]) -> UInt32[Array, "..."]:
        return jax.random.bits(jax.random.fold_in(key, jax.lax.axis_index(rows)), share, jnp.uint32)

    return [jax.shard_map(draw, in_specs=jax.P(), out_specs=jax.P(rows))(key)]


def _threefry_words(key: Key[Array, ""], shape: tuple[int, ...]) -> list[UInt32[Array, "..."]]:
    """Both words of each hash; jax.random.bits combines the two into one, and so hashes twice as often.

    The counter is the row (first axis) and the place in it, so neither half of it overflows at the size of a pod.
    """
    counts = (*shape[:-1], math.ceil(shape[-1] / 4))
    row = jax.lax.broadcasted_iota(jnp.uint32, counts, 0)
    place = jnp.zeros(counts, jnp.uint32)
    for axis in range(1, len(counts)):
        place += jax.lax.broadcasted_iota(jnp.uint32, counts, axis) * math.prod(counts[axis + 1 :])
    first, second = jax.random.key_data(key)
    return list(threefry2x32_p.bind(first, second, row, place))
