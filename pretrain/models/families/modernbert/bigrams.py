"""The start of ModernBERT whose first layer and head predict a word from those beside it (`word_init=bigrams`)."""

import jax.numpy as jnp
import numpy as np

from pretrain.models.bigrams import OFFSETS, Bigrams, common_direction
from pretrain.models.config import EncoderConfig
from pretrain.models.families.modernbert.fields import own_fields
from pretrain.models.families.modernbert.neighbours import COMMON_SHARE, query_and_key
from pretrain.models.module_shapes import Params
from pretrain.models.neighbours import offsets

WORD_SIZE = 0.045
"""Root mean square of a word's vector, and of what all words have in common, so that logits can be information."""
GAIN = 0.2
"""Length of what a head adds to a token, for information of length 1, as a share of a normalised embedding's."""
HEAD_SIZE = 0.1
"""What the head's map multiplies by: so little that its activation is nearly a line, before a norm scales it up."""


def start_at_bigrams(params: Params, config: EncoderConfig, bigrams: Bigrams) -> Params:
    """Params of `start_at_neighbours` that predict words from counts of pairs.

    Each of the first heads of the first layer looks at one neighbour, reads its vector and writes what its map gives,
    as far as the rank of a head goes. What the layers add up passes the head unchanged, and meets the words' vectors.

    Args:
      params: the fresh params.
      config: the network.
      bigrams: what is counted; with `vectors` and `log_frequencies` padded to the rows of the table.
    """
    attention, head, word = params["layers"]["attention"], params["head"], params["embeddings"]["word"]
    fused, output = attention["query_key_value"]["kernel"], attention["output"]["kernel"]
    D, N = config.hidden_size, config.num_attention_heads
    common = jnp.asarray(common_direction(D))
    used = OFFSETS[:N]
    own = own_fields(config)
    # Queries and keys of the first layer: each head's own offset in place of those of `start_at_neighbours`.
    starts = [query_and_key(own.thetas[0], config, looks) for looks in (used, offsets(N))]
    change = (starts[0] - starts[1]).astype(np.float32) / np.sqrt(COMMON_SHARE * D)
    fused = fused.at[0, :, :2].add(common[:, None, None, None] * change)
    # A normalised embedding is √(D / 2) times the common direction and a word's vector: the constant is read there.
    read, written = jnp.asarray(bigrams.read[: len(used)]), jnp.asarray(bigrams.written[: len(used)])
    root = GAIN**0.5
    values = root * (read[:, :-1] + common[:, None] * read[:, -1:])
    fused = fused.at[0, :, 2, : len(used)].set(values.transpose(1, 0, 2))
    output = output.at[0, : len(used)].set(root * written)
    # Words: rows that have no vector keep their random part, at the size of the others.
    rows = jnp.arange(len(word))[:, None] < config.vocab_size
    size = jnp.sum(word @ common * rows[:, 0]) / (config.vocab_size * np.sqrt(D))
    vectors = jnp.asarray(bigrams.vectors)
    counted = WORD_SIZE * np.sqrt(D) * (common + vectors)
    word = jnp.where(jnp.any(vectors != 0, axis=1, keepdims=True), counted, word * WORD_SIZE / size)
    head = {**head, "dense": {**head["dense"], "kernel": HEAD_SIZE * jnp.eye(D, dtype=word.dtype)}}
    if "bias" in head:
        head["bias"] = jnp.where(rows[:, 0], bigrams.log_frequencies, head["bias"])
    attention = {
        **attention,
        "query_key_value": {**attention["query_key_value"], "kernel": fused},
        "output": {**attention["output"], "kernel": output},
    }
    return {
        **params,
        "embeddings": {**params["embeddings"], "word": word},
        "layers": {**params["layers"], "attention": attention},
        "head": head,
    }
