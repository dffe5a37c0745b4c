"""NomicBERT's embeddings and layer as transformers runs them."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from pretrain.devices.mesh import constrain
from pretrain.models.config import EncoderConfig
from pretrain.models.dropout import dropout
from pretrain.models.families.nomic_bert.fields import own_fields
from pretrain.models.families.rotary import FeedForward, FusedSelfAttention
from pretrain.models.kernels.sight import Chosen
from pretrain.models.layers import LayerNorm, look_up, normal


class Embeddings(nnx.Module):
    """Word and token-type embeddings: summed, normalised. Positions are in the attention."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        self.config = config
        D, std = config.hidden_size, config.initializer_range
        self.word = normal(rngs, (config.vocab_rows, D), std, ("vocab", "embed"), used=config.vocab_size)
        self.word[...] = self.word[...].at[config.pad_token_id].set(0.0)
        self.token_type = normal(rngs, (config.type_vocab_size, D), std, (None, "embed"))
        self.norm = LayerNorm(D, config.layer_norm_eps)

    def __call__(
        self,
        tokens: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        token_types: Int[Array, "B S"] | None,
        dtype: jnp.dtype,
        dropout_key: Key[Array, ""] | None,
    ) -> Float[Array, "B S D"]:
        """Embed tokens. Their positions have no effect."""
        x = look_up(self.word[...], tokens)
        x += self.token_type[...][0] if token_types is None else self.token_type[...][token_types]
        x = constrain(self.norm(x, dtype), "batch", "seq", "act_embed")
        return dropout(x, self.config.hidden_dropout_prob, dropout_key, self.config.dropout_bits)


class EncoderLayer(nnx.Module):
    """Self-attention and feed-forward, each followed by dropout, the residual and a layer norm (post-norm)."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        self.config = config
        D, eps = config.hidden_size, config.layer_norm_eps
        self.attention = FusedSelfAttention(rngs, config, own_fields(config).rope_theta, bias=False)
        self.attention_norm = LayerNorm(D, eps)
        self.feed_forward = FeedForward(rngs, config, bias=False)
        self.feed_forward_norm = LayerNorm(D, eps)

    @staticmethod
    def traits(config: EncoderConfig) -> Mapping[str, np.ndarray]:
        """Nothing: all layers are alike."""
        return {}

    def __call__(
        self,
        x: Float[Array, "B S D"],
        segments: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        dropout_key: Key[Array, ""] | None,
        first: int | None = None,
        *,
        causal: bool = False,
        chosen: Chosen | None = None,
    ) -> Float[Array, "B Q D"]:
        """Run one layer, for all tokens, the first Q of a row or the chosen ones."""
        rate, bits = self.config.hidden_dropout_prob, self.config.dropout_bits
        keys = (None, None, None) if dropout_key is None else tuple(jax.random.split(dropout_key, 3))
        attended = self.attention(x, segments, positions, keys[0], first, causal, chosen)
        own = x[:, :first] if chosen is None else chosen.hidden
        x = self.attention_norm(own + dropout(attended, rate, keys[1], bits))
        x = constrain(x, "batch", "seq", "act_embed")
        x = self.feed_forward_norm(x + dropout(self.feed_forward(x), rate, keys[2], bits))
        return constrain(x, "batch", "seq", "act_embed")
