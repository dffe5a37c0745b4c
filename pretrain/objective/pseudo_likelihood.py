"""Pseudo-log-likelihood: how probable a masked language model finds each token, given all others.

Salazar et al. 2020, "Masked Language Model Scoring", section 2: a token is hidden, and the model says how probable it
is; the sum over the tokens of a sentence is the sentence's pseudo-log-likelihood. A word of several tokens is then
overrated, since the other tokens of the word tell the hidden one. Kauf & Ivanova 2023, "A Better Way to Do Masked
Language Model Scoring", section 3, hide the tokens that follow in the same word too (PLL-word-l2r).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pretrain.models import Model, Params
from tokenizer.load import Loaded

BATCH = 64
"""Rows of a forward pass. Each row has one hidden token."""

Score = Callable[..., Array]


@dataclass(frozen=True)
class Hidden:
    """The tokens that are hidden, one for each forward pass of a row."""

    rows: np.ndarray
    """The row of each of them, int32 [N]."""
    places: np.ndarray
    """Where it stands in the row, int32 [N]."""
    stops: np.ndarray
    """Tokens from its place up to this one are hidden with it, int32 [N]."""


def hidden_tokens(
    rows: Mapping[str, np.ndarray], tokenizer: Loaded, words: np.ndarray | None = None
) -> Hidden:
    """Hide each token of the rows in turn, an unknown one too, but no other special one and no padding.

    Args:
      rows: tokens and segments, int32 [R, S].
      tokenizer: of the tokens.
      words: the word that each token belongs to, int32 [R, S]; the tokens that follow in the same word are hidden too.
        None hides one token at a time.
    """
    others = [token for token in tokenizer.special_ids if token != tokenizer.special.unk]
    ordinary = (rows["segments"] > 0) & ~np.isin(rows["tokens"], others)
    row, place = (each.astype(np.int32) for each in np.nonzero(ordinary))
    if words is None:
        return Hidden(row, place, place + 1)
    length = ordinary.shape[1]
    begins = ~ordinary
    begins[:, 1:] |= words[:, 1:] != words[:, :-1]
    # For each place, the next one at which another word begins: a running minimum from the right.
    next_begin = np.minimum.accumulate(np.where(begins, np.arange(length), length)[:, ::-1], axis=1)[:, ::-1]
    next_begin = np.concatenate([next_begin, np.full((len(ordinary), 1), length)], axis=1)
    return Hidden(row, place, next_begin[row, place + 1].astype(np.int32))


def make_scorer(model: Model, mask: int) -> Score:
    """Make the compiled function that scores hidden tokens: one program for each row length.

    Args:
      model: the network.
      mask: id of the mask token.
    """

    @jax.jit
    def score(
        params: Any,
        tokens: Int[Array, "B S"],
        segments: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        places: Int[Array, "B"],
        stops: Int[Array, "B"],
    ) -> Float[Array, "B"]:
        at = jnp.arange(tokens.shape[1])
        is_hidden = (at >= places[:, None]) & (at < stops[:, None])
        hidden = model.encode(params, jnp.where(is_hidden, mask, tokens), segments, positions)
        logits = model.predict(params, jnp.take_along_axis(hidden, places[:, None, None], axis=1))[:, 0]
        target = jnp.take_along_axis(tokens, places[:, None], axis=1)
        return jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), target, axis=1)[:, 0]

    return score


def log_probabilities(
    score: Score, params: Params, rows: Mapping[str, np.ndarray], hidden: Hidden, *, batch: int = BATCH
) -> np.ndarray:
    """The log-probability (nats) of each hidden token, float64 [N].

    Args:
      score: what `make_scorer` gives.
      params: the model's params.
      rows: tokens, segments and positions, int32 [R, S].
      hidden: the tokens.
      batch: rows of a forward pass.
    """
    count = len(hidden.rows)
    params, scores = jax.device_put(params), []
    for first in range(0, count, batch):
        # The last batch is filled up with its first token, so that all have one shape.
        chosen = np.minimum(np.arange(first, first + batch), count - 1)
        arrays = [rows[name][hidden.rows[chosen]] for name in ("tokens", "segments", "positions")]
        scores.append(score(params, *arrays, hidden.places[chosen], hidden.stops[chosen]))
    return np.concatenate([np.zeros(0), *map(np.asarray, scores)])[:count].astype(np.float64)
