"""The start of ModernBERT's words and attention that has heads look at one neighbour each."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.stats import truncnorm

from pretrain.models.config import EncoderConfig
from pretrain.models.families.modernbert.fields import own_fields
from pretrain.models.module_shapes import Params
from pretrain.models.neighbours import offsets, turned

MARGIN = 2.9
"""How much higher the scaled score of the neighbour that a head looks at is than those of the tokens beside it."""
FAST = 0.25
"""Rotations that turn less than this from a token to the next, in radians, hardly tell neighbours apart. They are read
more weakly, as a power of their turn, and keep the score of far tokens low, where the fast ones are in step again."""
POWER = 0.75
COMMON_SHARE = 0.5
"""Mean square of a normalised embedding that all words have in common."""


def start_at_neighbours(params: Params, config: EncoderConfig) -> Params:
    """Fresh params in which half of the heads of each layer look at one neighbour each.

    Rotary attention depends on positions alone only where query and key are the same for all words. There is no bias
    that would make them so. So all words start with a direction in common, which changes no prediction: it adds the
    same to the logits of all words. Queries and keys read this direction, and the query's are turned by the head's
    offset. Their random start is kept beside it.
    """
    own, D = own_fields(config), config.hidden_size
    common = jnp.where(jnp.arange(D) % 2, -1.0, 1.0)
    seen = np.sqrt(COMMON_SHARE) * D  # what `common` gives with a normalised embedding
    looks = offsets(config.num_attention_heads)
    starts = np.stack([query_and_key(theta, config, looks) for theta in own.thetas]).astype(np.float32) / seen
    starts = common[:, None, None, None] * starts[:, None]  # [L, D, 2, N, H], made on the devices
    attention = params["layers"]["attention"]
    fused = attention["query_key_value"]
    fused = {**fused, "kernel": fused["kernel"].at[:, :, :2].add(starts)}
    word = params["embeddings"]["word"]
    used = (jnp.arange(word.shape[0]) < config.vocab_size)[:, None]
    stddev = config.initializer_range * float(
        truncnorm.std(-own.initializer_cutoff_factor, own.initializer_cutoff_factor)
    )
    return {
        **params,
        "embeddings": {**params["embeddings"], "word": word + used * stddev * common},
        "layers": {**params["layers"], "attention": {**attention, "query_key_value": fused}},
    }


def query_and_key(theta: float, config: EncoderConfig, looks: Sequence[int]) -> Float[np.ndarray, "2 N H"]:
    """The query and the key of each head in a layer with a rotary base, before they are rotated.

    Args:
      theta: the rotary base.
      config: the network.
      looks: how far after a token each of the first heads looks; the others have zeros.
    """
    N, H = config.num_attention_heads, config.head_width
    turns = theta ** -(np.arange(0, H, 2) / H)
    fast = turns >= FAST
    height = MARGIN * np.sqrt(H) / (1 - np.cos(turns[fast])).sum()
    heights = height * np.minimum(1.0, (turns / FAST) ** POWER)
    key = np.concatenate([np.sqrt(heights), np.zeros(H // 2)])[None]
    result = np.zeros((2, N, H))
    for head, offset in enumerate(looks):
        result[:, head] = np.concatenate([turned(key, offset * turns), key])
    return result
