"""ModernBERT (Warner et al. 2024) as transformers runs it: rotary positions, pre-norm layers, local attention.

`EncoderLayer` describes one layer; `pretrain.models.encoder` stacks it. Values that differ between layers are scanned
with the params: the window, the rotary frequencies, and whether the layer has a norm before its attention. The first
layer has none, because the embeddings are normalised already. Its scale and bias are in the stack, but unused.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from pretrain.devices.mesh import constrain
from pretrain.models.attention import attention
from pretrain.models.config import EncoderConfig
from pretrain.models.dropout import dropout
from pretrain.models.families.family import KernelStart
from pretrain.models.families.modernbert.fields import own_fields
from pretrain.models.families.rotary import rotate
from pretrain.models.kernels.sight import Chosen
from pretrain.models.layers import LayerNorm, Linear, activate, look_up, normal


def norm(config: EncoderConfig) -> LayerNorm:
    """A layer norm of model width."""
    return LayerNorm(config.hidden_size, config.layer_norm_eps, bias=own_fields(config).norm_bias)


class Embeddings(nnx.Module):
    """Normalised word embeddings. Positions are in the attention, and there are no token types."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        self.config = config
        shape, used = (config.vocab_rows, config.hidden_size), config.vocab_size
        cutoff = own_fields(config).initializer_cutoff_factor
        self.word = normal(
            rngs, shape, config.initializer_range, ("vocab", "embed"), cutoff=cutoff, used=used
        )
        self.norm = norm(config)

    def __call__(
        self,
        tokens: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        token_types: Int[Array, "B S"] | None,
        dtype: jnp.dtype,
        dropout_key: Key[Array, ""] | None,
    ) -> Float[Array, "B S D"]:
        """Embed tokens. Their positions have no effect."""
        x = constrain(self.norm(look_up(self.word[...], tokens), dtype), "batch", "seq", "act_embed")
        return dropout(x, own_fields(self.config).embedding_dropout, dropout_key, self.config.dropout_bits)


class SelfAttention(nnx.Module):
    """Multi-head self-attention, in which query and key are rotated by their positions (Su et al. 2021)."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        self.config = config
        D, N, H = config.hidden_size, config.num_attention_heads, config.head_width
        std, own = config.initializer_range, own_fields(config)
        self.query_key_value = Linear(
            rngs,
            {"D": D},
            {"P": 3, "N": N, "H": H},
            ("embed", "matrices", "heads", None),
            std,
            bias=own.attention_bias,
            cutoff=own.initializer_cutoff_factor,
        )
        self.output = Linear(
            rngs,
            {"N": N, "H": H},
            {"D": D},
            ("heads", None, "embed"),
            residual_std(config),
            bias=own.attention_bias,
            cutoff=own.initializer_cutoff_factor,
        )

    def __call__(
        self,
        x: Float[Array, "B S D"],
        segments: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        dropout_key: Key[Array, ""] | None,
        first: int | None,
        causal: bool,
        window: Int[Array, ""] | int | None,
        frequencies: Float[Array, "H/2"],
        chosen: Chosen | None = None,
    ) -> Float[Array, "B Q D"]:
        """Attend within each document and the window. Returns the output for the first Q tokens, or the chosen ones."""
        angles = positions[..., None].astype(jnp.float32) * frequencies
        if chosen is None:
            query, key, value = self.query_key_value.parts(x)
            query, turned = query[:, :first], angles[:, :first]
        else:
            key, value = self.query_key_value.parts(x, since=1)
            (query,) = self.query_key_value.parts(chosen.hidden, until=1)
            turned = chosen.of(angles)
        query, key, value = (
            constrain(heads, "batch", "seq", "act_heads", None) for heads in (query, key, value)
        )
        attended = attention(
            rotate(query, turned),
            rotate(key, angles),
            value,
            segments,
            dropout_key=dropout_key,
            implementation=self.config.attention,
            dropout_rate=self.config.attention_probs_dropout_prob,
            dropout_bits=self.config.dropout_bits,
            window=window,
            causal=causal,
            unrolled=self.config.unrolled,
            remat=self.config.remat,
            chosen=chosen,
        )
        return self.output(constrain(attended, "batch", "seq", "act_heads", None))


class FeedForward(nnx.Module):
    """A gated linear unit (Shazeer 2020) and the map back."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        self.config = config
        D, F, own = config.hidden_size, config.intermediate_size, own_fields(config)
        cutoff, std = own.initializer_cutoff_factor, config.initializer_range
        self.up = Linear(
            rngs,
            {"D": D},
            {"G": 2, "F": F},
            ("embed", "matrices", "mlp"),
            std,
            bias=own.mlp_bias,
            cutoff=cutoff,
        )
        self.down = Linear(
            rngs, {"F": F}, {"D": D}, ("mlp", "embed"), residual_std(config), bias=own.mlp_bias, cutoff=cutoff
        )

    def __call__(self, x: Float[Array, "B S D"], dropout_key: Key[Array, ""] | None) -> Float[Array, "B S D"]:
        """Apply the layer, with dropout of the gated activation."""
        up, gate = (constrain(part, "batch", "seq", "act_mlp") for part in self.up.parts(x))
        gated = activate(up, self.config.hidden_act, unrolled=self.config.unrolled) * gate
        return self.down(
            dropout(gated, own_fields(self.config).mlp_dropout, dropout_key, self.config.dropout_bits)
        )


class EncoderLayer(nnx.Module):
    """Self-attention and feed-forward, each after a layer norm (pre-norm) and added to what came in."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        self.config = config
        self.attention_norm = norm(config)
        self.attention = SelfAttention(rngs, config)
        self.feed_forward_norm = norm(config)
        self.feed_forward = FeedForward(rngs, config)

    @staticmethod
    def traits(config: EncoderConfig) -> Mapping[str, np.ndarray]:
        """The window of each layer, its rotary frequencies, and whether it normalises the input of its attention."""
        own, H = own_fields(config), config.head_width
        exponents = np.arange(0, H, 2, dtype=np.float32) / np.float32(H)
        return {
            "window": np.array([window or config.max_length for window in own.windows], np.int32),
            "frequencies": np.stack([1 / np.float32(theta) ** exponents for theta in own.thetas]),
            "normalises": np.arange(config.num_hidden_layers) > 0,
        }

    def __call__(
        self,
        x: Float[Array, "B S D"],
        segments: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        dropout_key: Key[Array, ""] | None,
        first: int | None = None,
        *,
        causal: bool = False,
        window: Int[Array, ""] | int | None,
        frequencies: Float[Array, "H/2"],
        normalises: Bool[Array, ""],
        chosen: Chosen | None = None,
    ) -> Float[Array, "B Q D"]:
        """Run one layer, for all tokens, the first Q of a row or the chosen ones.

        `window`, `frequencies` and `normalises` are its traits.
        """
        keys = (None, None, None) if dropout_key is None else tuple(jax.random.split(dropout_key, 3))
        own = x[:, :first] if chosen is None else chosen.hidden

        def normalised(x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
            return jnp.where(normalises, self.attention_norm(x), x)

        asking = None if chosen is None else dataclasses.replace(chosen, hidden=normalised(own))
        attended = self.attention(
            normalised(x), segments, positions, keys[0], first, causal, window, frequencies, asking
        )
        x = own + dropout(
            attended, self.config.attention_probs_dropout_prob, keys[1], self.config.dropout_bits
        )
        x = x + self.feed_forward(self.feed_forward_norm(x), keys[2])
        return constrain(x, "batch", "seq", "act_embed")


class FinalNorm(nnx.Module):
    """The layer norm after the last layer."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        self.norm = norm(config)

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """Normalise."""
        return self.norm(x)


def residual_std(config: EncoderConfig) -> float:
    """The initial standard deviation of kernels that add to the residual. It falls with the number of layers."""
    return float(config.initializer_range / (2 * config.num_hidden_layers) ** 0.5)


def classifier_start(config: EncoderConfig) -> KernelStart:
    """The start of the head that classifies texts."""
    return KernelStart(
        residual_std(config), config.hidden_size**-0.5, own_fields(config).initializer_cutoff_factor
    )
