"""The start of BERT's position embedding and attention that has heads look at one neighbour each."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pretrain.models.config import EncoderConfig
from pretrain.models.module_shapes import Params
from pretrain.models.neighbours import offsets, turned

PEAK = 8.0
"""Scaled score of the neighbour that a head looks at; those of other tokens are about 0."""
WAVE = 2 / 3
"""Squared amplitude of a wave in a normalised embedding: the sum of a word, a position and a token type of one size."""
LONGEST = 1000.0
"""Ratio of the longest and the shortest wavelength of the slow waves."""


def fast_waves(waves: int) -> Float[np.ndarray, " W"]:
    """Radians that each wave turns from a token to the next, spread over (0, pi).

    The sum of their cosines is W for equal positions and about 0 for those within W tokens. Their distances are
    uneven, so that farther ones stay below W: at most 0.8 W in rows of 512, for 32 waves.
    """
    index = np.arange(waves)
    uneven = 0.8 * ((index * 0.5 * (5**0.5 - 1)) % 1 - 0.5)
    return np.pi * (index + 0.5 + uneven) / waves


def position_table(config: EncoderConfig) -> Float[Array, "P D"]:
    """Cosines and sines of fast waves, as many as a head is wide, and of slow ones, as large as a random start."""
    D, fast = config.hidden_size, fast_waves(config.head_width // 2)
    slow_waves = -(-(D - 2 * len(fast)) // 2)
    slow = LONGEST ** -(np.arange(slow_waves) / max(slow_waves, 1))
    places = jnp.arange(config.max_position_embeddings)[:, None]
    waves = [function(places * turns) for turns in (fast, slow) for function in (jnp.cos, jnp.sin)]
    table = config.initializer_range * 2**0.5 * jnp.concatenate(waves, axis=1)[:, :D]
    return table.at[config.pad_token_id].set(0.0) if config.family.positions_skip_padding else table


def start_at_neighbours(params: Params, config: EncoderConfig) -> Params:
    """Fresh params with another position embedding, and with heads that look at one neighbour each.

    Queries and keys of such a head read the fast waves of the position, and the query's are turned by the head's
    offset. Their random start is kept beside it.
    """
    N, W = config.num_attention_heads, config.head_width // 2
    gain = np.sqrt(PEAK * np.sqrt(config.head_width) / (W * WAVE))
    query, key = np.zeros((2, config.hidden_size, N, 2 * W))
    for head, offset in enumerate(offsets(N)):
        key[:, head] = np.eye(config.hidden_size, 2 * W)
        query[:, head] = turned(key[:, head], offset * fast_waves(W))
    attention = dict(params["layers"]["attention"])
    for name, start in (("query", query), ("key", key)):
        kernel = attention[name]["kernel"]
        attention[name] = {**attention[name], "kernel": kernel.at[:, :, :, : 2 * W].add(gain * start)}
    embeddings = {**params["embeddings"], "position": position_table(config)}
    return {**params, "embeddings": embeddings, "layers": {**params["layers"], "attention": attention}}
