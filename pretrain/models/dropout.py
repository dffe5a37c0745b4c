"""Dropout with masks that cost a third of jax.random.bernoulli's. Each device draws the masks of its own rows only.

Threefry's masks are the same on every mesh. With the hardware's generator (rbg), each shard of the rows has its own
masks.
"""

import math

import jax
import jax.numpy as jnp
from jax.extend.random import threefry2x32_p
from jaxtyping import Array, Bool, DTypeLike, Float, Key, UInt, UInt32

from pretrain.devices.mesh import spec

MOST_BITS = 16
"""Bits that decide an element, where a network does not say otherwise."""
FEWEST_BITS = 8
LEAST_SHARE = 1 / 32
"""The lowest rate for which `AUTO_BITS` takes 8 bits: rounding then changes it by less than a sixteenth."""
LARGEST_SHARE = 255.5 / 256
"""From this rate on `AUTO_BITS` takes 16 bits: 8 would round it to 1."""
AUTO_BITS = 0
"""Takes 8 bits of the hardware's generator where they round the rate by little, else 16."""


@jax.named_scope("dropout")
def dropout(
    x: Float[Array, "..."], rate: float, key: Key[Array, ""] | None, bits: int = MOST_BITS
) -> Float[Array, "..."]:
    """Zero a share `rate` of `x` and scale the rest to keep the mean; without a key return `x` itself.

    The rate is rounded to 1/256 or 1/65536, and never to 1. The scale follows the rounded rate, so the mean is exact.

    Args:
      x: the array.
      rate: the share.
      key: the key of the mask.
      bits: random bits for each element, 8, 16 or `AUTO_BITS`.
    """
    keep, scale = kept(key, x.shape, rate, bits)
    if keep is None:
        return x
    return jnp.where(keep, x * jnp.asarray(scale, x.dtype), jnp.zeros((), x.dtype))


def kept(
    key: Key[Array, ""] | None, shape: tuple[int, ...], rate: float, bits: int = MOST_BITS
) -> tuple[Bool[Array, "..."] | None, float]:
    """Which elements dropout keeps (None: all), and their factor; the rate is rounded as in `dropout`."""
    if key is None or rate == 0:
        return None, 1.0
    if bits == AUTO_BITS:
        few = LEAST_SHARE <= rate < LARGEST_SHARE and not _is_threefry(key)
        bits = FEWEST_BITS if few else MOST_BITS
    levels = 1 << bits
    threshold = min(round(rate * levels), levels - 1)
    return (
        (keep_mask(key, shape, threshold, bits), levels / (levels - threshold)) if threshold else (None, 1.0)
    )


@jax.named_scope("dropout_mask")
def keep_mask(
    key: Key[Array, ""], shape: tuple[int, ...], threshold: int, bits: int = MOST_BITS
) -> Bool[Array, "..."]:
    """True with probability 1 - threshold / 2^bits, independently for each element.

    Each part of a generated word decides one element. The parts of the first word decide the first parts of the last
    axis, and so on. All operations are elementwise. So the mask has the layout of the array that it masks, and with
    threefry it does not depend on the mesh.
    """
    if bits == FEWEST_BITS and not _is_threefry(key):
        return _drawn(key, shape, jnp.uint8) >= threshold
    per_word = 32 // bits
    if _is_threefry(key):
        words = _threefry_words(key, (*shape[:-1], math.ceil(shape[-1] / (2 * per_word))))
    else:
        words = [_drawn(key, (*shape[:-1], math.ceil(shape[-1] / per_word)), jnp.uint32)]
    parts = [(word >> (bits * part)) & ((1 << bits) - 1) for word in words for part in range(per_word)]
    return jnp.concatenate([part >= threshold for part in parts], axis=-1)[..., : shape[-1]]


def _is_threefry(key: Key[Array, ""]) -> bool:
    return str(jax.random.key_impl(key)) == "threefry2x32"


def _drawn(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> UInt[Array, "..."]:
    """Random bits. Each device draws its own rows; without `shard_map`, it would draw all rows."""
    mesh = jax.sharding.get_abstract_mesh()
    split = spec(mesh, ("batch",), shape)[0] if not mesh.empty else None
    rows = (split,) if isinstance(split, str) else split
    if rows is None:
        return jax.random.bits(key, shape, dtype)
    share = (shape[0] // math.prod(mesh.shape[axis] for axis in rows), *shape[1:])

    def draw(key: Key[Array, ""]) -> UInt[Array, "..."]:
        return jax.random.bits(jax.random.fold_in(key, jax.lax.axis_index(rows)), share, dtype)

    return jax.shard_map(draw, in_specs=jax.P(), out_specs=jax.P(rows))(key)


def _threefry_words(key: Key[Array, ""], shape: tuple[int, ...]) -> list[UInt32[Array, "..."]]:
    """Both words of each hash; jax.random.bits combines the two into one, and so hashes twice as often.

    The counter is the row (first axis) and the place in it, so neither half of it overflows at the size of a pod.
    """
    row = jax.lax.broadcasted_iota(jnp.uint32, shape, 0)
    place = jnp.zeros(shape, jnp.uint32)
    for axis in range(1, len(shape)):
        place += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * math.prod(shape[axis + 1 :])
    first, second = jax.random.key_data(key)
    return list(threefry2x32_p.bind(first, second, row, place))
