"""EuroBERT's embeddings, layer and final norm as transformers runs them."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from pretrain.devices.mesh import constrain
from pretrain.models.config import EncoderConfig
from pretrain.models.families.eurobert.fields import own_fields
from pretrain.models.families.rotary import FeedForward, SelfAttention
from pretrain.models.kernels.sight import Chosen
from pretrain.models.layers import RMSNorm, look_up, normal


class Embeddings(nnx.Module):
    """Word embeddings as they are. Positions are in the attention, and there are no token types."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        shape, std = (config.vocab_rows, config.hidden_size), config.initializer_range
        self.word = normal(rngs, shape, std, ("vocab", "embed"), used=config.vocab_size)
        self.word[...] = self.word[...].at[config.pad_token_id].set(0.0)

    def __call__(
        self,
        tokens: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        token_types: Int[Array, "B S"] | None,
        dtype: jnp.dtype,
        dropout_key: Key[Array, ""] | None,
    ) -> Float[Array, "B S D"]:
        """Embed tokens. Their positions have no effect."""
        return constrain(look_up(self.word[...], tokens).astype(dtype), "batch", "seq", "act_embed")


class EncoderLayer(nnx.Module):
    """Self-attention and feed-forward, each after an RMS norm (pre-norm) and added to what came in."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        D, eps, own = config.hidden_size, config.layer_norm_eps, own_fields(config)
        self.attention_norm = RMSNorm(D, eps)
        self.attention = SelfAttention(rngs, config, own.rope_theta, bias=own.attention_bias)
        self.feed_forward_norm = RMSNorm(D, eps)
        self.feed_forward = FeedForward(rngs, config, bias=own.mlp_bias)

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
        own = x[:, :first] if chosen is None else chosen.hidden
        asking = None if chosen is None else dataclasses.replace(chosen, hidden=self.attention_norm(own))
        x = own + self.attention(
            self.attention_norm(x), segments, positions, dropout_key, first, causal, asking
        )
        x = x + self.feed_forward(self.feed_forward_norm(x))
        return constrain(x, "batch", "seq", "act_embed")


class FinalNorm(nnx.Module):
    """The norm after the last layer."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        self.norm = RMSNorm(config.hidden_size, config.layer_norm_eps)

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """Normalise."""
        return self.norm(x)
