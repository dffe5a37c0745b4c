"""What a kernel is told beside query, key and value: which tokens see each other, and the dropout of the weights."""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from pretrain.models.dropout import MOST_BITS


@dataclass(frozen=True)
class Chosen:
    """Tokens of a row that a layer computes alone; it reads keys and values of all tokens."""

    hidden: Float[Array, "B Q D"]
    """Their hidden states."""
    places: Int[Array, "B Q"]
    """Their places in the row."""

    def of(self, x: Array) -> Array:
        """Their part of an array [B, S, ...]."""
        return jnp.take_along_axis(x, self.places.reshape(*self.places.shape, *(1,) * (x.ndim - 2)), axis=1)


@dataclass(frozen=True)
class Sight:
    """Which tokens of a row a token sees."""

    segments: Int[Array, "B S"]
    """The document within the row, 0 for padding. A token sees the tokens with the same number."""
    window: Int[Array, ""] | int | None
    """How far from itself a token sees, to both sides; None is the whole document. An int where it is known before the
    program is compiled."""
    causal: bool
    """Whether a token sees itself and earlier tokens alone."""
    unrolled: bool = False
    """Whether no loop runs the layers."""
    start: Int[Array, ""] | int = 0
    """The place in the row of the first query."""
    chosen: Int[Array, "B Q"] | None = None
    """The places in the row of the queries, where they do not follow each other."""
    bias: Float[Array, "#B N Q S"] | None = None
    """What is added to the scaled scores."""

    def mask(self, queries: int) -> Bool[Array, "B 1 Q S"]:
        """True where one of Q tokens of a row, from `start` on or as chosen, sees a token."""
        places = jnp.arange(self.segments.shape[1])
        own, seeing = self.start + jnp.arange(queries), self.segments
        if self.chosen is not None:
            own, seeing = self.chosen[:, None], jnp.take_along_axis(seeing, self.chosen, axis=1)
        elif queries < places.size:
            seeing = lax.dynamic_slice_in_dim(seeing, self.start, queries, axis=1)
        mask = seeing[:, None, :, None] == self.segments[:, None, None, :]
        if self.causal:
            mask &= places <= own[..., None]
        if self.window is not None:
            mask &= jnp.abs(own[..., None] - places) <= self.window
        return mask


@dataclass(frozen=True)
class WeightDropout:
    """Dropout of the attention weights."""

    rate: float
    key: Key[Array, ""] | None
    """The key of the mask; None drops nothing."""
    bits: int = MOST_BITS
    """Random bits for each weight."""


Compute = Callable[
    [Float[Array, "B Q N H"], Float[Array, "B S N H"], Float[Array, "B S N H"], Sight, WeightDropout],
    Float[Array, "B Q N H"],
]
"""A kernel's function: query, key, value, visible tokens, dropout -> the attention's output for each query."""
