"""Relative positions of queries and keys: from arrays by distance to arrays of pairs, without a gather of all pairs.

A distance is the key's place in the row minus the query's. Places and positions differ by a constant within a document,
so that documents which share a row need no other distances.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pretrain.models.kernels.sight import Chosen


def distances(length: int) -> np.ndarray:
    """The distances of a row in the order of the last axis of the arrays here: 1 - S, ..., S - 1."""
    return np.arange(1 - length, length)


def of_pairs(
    by_distance: Float[Array, "*other Q W"], chosen: Chosen | None = None
) -> Float[Array, "*other Q S"]:
    """For each query and key, the element of the query at their distance.

    Args:
      by_distance: for each query an element for each distance, W = 2 S - 1; the queries are the first Q tokens.
      chosen: the tokens that ask, if these are others; then the array is [B, N, Q, W].
    """
    *other, queries, width = by_distance.shape
    length = (width + 1) // 2
    if chosen is not None:
        places = jnp.arange(length) - chosen.places[..., None] + length - 1
        return jnp.take_along_axis(by_distance, places[:, None], axis=-1)
    # Query q reads from column S - 1 - q on. In rows that are one element longer, columns move by one from row to row.
    flat = jnp.pad(by_distance, [(0, 0)] * len(other) + [(0, 0), (0, 1)]).reshape(*other, -1)
    missing = max(length - 1 + queries * width - flat.shape[-1], 0)
    flat = jnp.pad(flat, [(0, 0)] * len(other) + [(0, missing)])
    flat = flat[..., length - 1 : length - 1 + queries * width]
    return flat.reshape(*other, queries, width)[..., :length]
