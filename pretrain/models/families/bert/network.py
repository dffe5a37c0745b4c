"""BERT's encoder (Devlin et al. 2019) as transformers runs it: embeddings and one post-norm layer.

RoBERTa, XLM-R, CamemBERT, DistilBERT and ELECTRA run it too. They differ in where positions start to count, in token
types, in the width of the embeddings. `EncoderLayer` describes a single layer; `pretrain.models.encoder` stacks it.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from pretrain.devices.mesh import constrain
from pretrain.models.attention import attention
from pretrain.models.config import EncoderConfig
from pretrain.models.dropout import dropout
from pretrain.models.kernels.sight import Chosen
from pretrain.models.layers import LayerNorm, Linear, activate, look_up, normal


def sinusoids(positions: int, width: int, rms: float) -> Float[Array, "P E"]:
    """Sines and cosines of positions at wavelengths from 2 pi to 20000 pi (Vaswani et al. 2017, section 3.5).

    Scaled to root mean square `rms`; one half of the width holds sines, the other cosines.
    """
    waves = -(-width // 2)
    angles = jnp.arange(positions)[:, None] / 10000.0 ** (jnp.arange(waves) / waves)
    return rms * 2**0.5 * jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)[:, :width]


class Embeddings(nnx.Module):
    """Word, position and (where there are any) token-type embeddings: summed, normalised, brought to width D."""

    always_projects = False
    """Whether they are projected even if they have width D."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        self.config = config
        D, std = config.hidden_size, config.initializer_range
        E = config.embedding_size or D
        self.word = normal(rngs, (config.vocab_rows, E), std, ("vocab", "embed"), used=config.vocab_size)
        self.position = normal(rngs, (config.max_position_embeddings, E), std, ("positions", "embed"))
        if config.position_init == "sinusoidal":
            self.position[...] = sinusoids(config.max_position_embeddings, E, std)
        if config.type_vocab_size:
            self.token_type = normal(rngs, (config.type_vocab_size, E), std, (None, "embed"))
        self.norm = LayerNorm(E, config.layer_norm_eps)
        if E != D or self.always_projects:
            self.projection = Linear(rngs, {"E": E}, {"D": D}, (None, "embed"), std)
        self.word[...] = self.word[...].at[config.pad_token_id].set(0.0)
        if config.family.positions_skip_padding:
            self.position[...] = self.position[...].at[config.pad_token_id].set(0.0)

    def __call__(
        self,
        tokens: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        token_types: Int[Array, "B S"] | None,
        dtype: jnp.dtype,
        dropout_key: Key[Array, ""] | None,
    ) -> Float[Array, "B S D"]:
        """Embed tokens at positions that count from 0 within each document."""
        x = look_up(self.word[...], tokens) + self.position[...][positions + self.config.position_offset]
        if hasattr(self, "token_type"):
            x += self.token_type[...][0] if token_types is None else self.token_type[...][token_types]
        x = constrain(self.norm(x, dtype), "batch", "seq", "act_embed")
        x = dropout(x, self.config.hidden_dropout_prob, dropout_key, self.config.dropout_bits)
        return (
            constrain(self.projection(x), "batch", "seq", "act_embed") if hasattr(self, "projection") else x
        )


class SelfAttention(nnx.Module):
    """Multi-head self-attention with its projections."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        self.config = config
        D, N, H, std = (
            config.hidden_size,
            config.num_attention_heads,
            config.head_width,
            config.initializer_range,
        )
        self.query, self.key, self.value = (
            Linear(rngs, {"D": D}, {"N": N, "H": H}, ("embed", "heads", None), std) for _ in range(3)
        )
        self.output = Linear(rngs, {"N": N, "H": H}, {"D": D}, ("heads", None, "embed"), std)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        segments: Int[Array, "B S"],
        dropout_key: Key[Array, ""] | None,
        first: int | None,
        causal: bool,
        chosen: Chosen | None = None,
        **shared: Array,
    ) -> Float[Array, "B Q D"]:
        """Attend within each document. Returns the output for the first Q tokens of each row, or the chosen ones.

        `shared` is what all layers read, where the family has such arrays.
        """
        asking = x[:, :first] if chosen is None else chosen.hidden
        query, key, value = (
            constrain(linear(read), "batch", "seq", "act_heads", None)
            for linear, read in ((self.query, asking), (self.key, x), (self.value, x))
        )
        query, bias, dropout_key = self.relative(query, key, dropout_key, chosen, **shared)
        attended = attention(
            query,
            key,
            value,
            segments,
            dropout_key=dropout_key,
            implementation=self.config.attention,
            dropout_rate=self.config.attention_probs_dropout_prob,
            dropout_bits=self.config.dropout_bits,
            causal=causal,
            unrolled=self.config.unrolled,
            remat=self.config.remat,
            chosen=chosen,
            bias=bias,
        )
        return self.output(constrain(attended, "batch", "seq", "act_heads", None))

    def relative(
        self,
        query: Float[Array, "B Q N H"],
        key: Float[Array, "B S N H"],
        dropout_key: Key[Array, ""] | None,
        chosen: Chosen | None,
    ) -> tuple[Float[Array, "B Q N H"], Float[Array, "#B N Q S"] | None, Key[Array, ""] | None]:
        """The queries to run, what is added to their scaled scores, and the key of the weights' dropout."""
        return query, None, dropout_key


class EncoderLayer(nnx.Module):
    """Self-attention and feed-forward, each followed by dropout, the residual and a layer norm (post-norm)."""

    drops_attended = True
    """Whether there is a dropout between attention and its residual."""
    drops_transformed = True
    """Whether there is one between the feed-forward layer and its residual."""
    attention_class: type[SelfAttention] = SelfAttention

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        self.config = config
        D, F, std, eps = (
            config.hidden_size,
            config.intermediate_size,
            config.initializer_range,
            config.layer_norm_eps,
        )
        self.attention = self.attention_class(rngs, config)
        self.attention_norm = LayerNorm(D, eps)
        self.up = Linear(rngs, {"D": D}, {"F": F}, ("embed", "mlp"), std)
        self.down = Linear(rngs, {"F": F}, {"D": D}, ("mlp", "embed"), std)
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
        **shared: Array,
    ) -> Float[Array, "B Q D"]:
        """Run one layer, for all tokens, the first Q of a row or the chosen ones; positions are in the embeddings.

        `shared` is what all layers read.
        """
        rate, bits = self.config.hidden_dropout_prob, self.config.dropout_bits
        keys = (None, None, None) if dropout_key is None else tuple(jax.random.split(dropout_key, 3))
        attended = self.attention(x, segments, keys[0], first, causal, chosen, **shared)
        if self.drops_attended:
            attended = dropout(attended, rate, keys[1], bits)
        own = x[:, :first] if chosen is None else chosen.hidden
        x = constrain(self.attention_norm(own + attended), "batch", "seq", "act_embed")
        hidden = activate(
            constrain(self.up(x), "batch", "seq", "act_mlp"),
            self.config.hidden_act,
            unrolled=self.config.unrolled,
        )
        transformed = self.down(hidden)
        if self.drops_transformed:
            transformed = dropout(transformed, rate, keys[2], bits)
        return constrain(self.feed_forward_norm(x + transformed), "batch", "seq", "act_embed")
