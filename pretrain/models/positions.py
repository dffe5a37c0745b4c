"""Positions of the tokens of rows that hold one text each."""

import jax.numpy as jnp
from jaxtyping import Array, Int

from pretrain.models.config import EncoderConfig


def positions_of_texts(tokens: Int[Array, "B S"], config: EncoderConfig) -> Int[Array, "B S"]:
    """Positions in each row, from 0, as transformers counts them.

    RoBERTa's network counts only tokens that are not the padding token. So a padding token that is written in a text
    takes no position from the other tokens. Its own position is -1, as for padding.
    """
    if not config.family.positions_skip_padding:
        return jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    counted = (tokens != config.pad_token_id).astype(jnp.int32)
    return jnp.cumsum(counted, axis=1) * counted - 1
