"""DeBERTa-v2's embeddings, layer and tables as transformers runs them (He et al. 2021, section 3)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from pretrain.devices.mesh import constrain
from pretrain.models import relative
from pretrain.models.config import EncoderConfig
from pretrain.models.dropout import dropout
from pretrain.models.families.bert import network
from pretrain.models.families.deberta_v2.fields import (
    CONTENT_TO_POSITION,
    POSITION_TO_CONTENT,
    farthest,
    own_fields,
    span,
)
from pretrain.models.kernels.sight import Chosen
from pretrain.models.layers import ACTIVATIONS, LayerNorm, Linear, constant, look_up, normal
from pretrain.models.matrix_products import einsum


class Embeddings(nnx.Module):
    """Word, and where there are any position and token-type embeddings: summed, brought to width D, normalised."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        self.config = config
        D, std = config.hidden_size, config.initializer_range
        E = config.embedding_size or D
        self.word = normal(rngs, (config.vocab_rows, E), std, ("vocab", "embed"), used=config.vocab_size)
        self.word[...] = self.word[...].at[config.pad_token_id].set(0.0)
        if own_fields(config).position_biased_input:
            P = config.max_position_embeddings
            self.position = normal(rngs, (P, E), std, ("positions", "embed"))
            if config.position_init == "sinusoidal":
                self.position[...] = network.sinusoids(P, E, std)
        if config.type_vocab_size:
            self.token_type = normal(rngs, (config.type_vocab_size, E), std, (None, "embed"))
        if E != D:
            self.projection = Linear(rngs, {"E": E}, {"D": D}, (None, "embed"), std, bias=False)
        self.norm = LayerNorm(D, config.layer_norm_eps)

    def __call__(
        self,
        tokens: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        token_types: Int[Array, "B S"] | None,
        dtype: jnp.dtype,
        dropout_key: Key[Array, ""] | None,
    ) -> Float[Array, "B S D"]:
        """Embed tokens at positions that count from 0 within each document."""
        x = look_up(self.word[...], tokens)
        if hasattr(self, "position"):
            x += self.position[...][positions]
        if hasattr(self, "token_type"):
            x += self.token_type[...][0] if token_types is None else self.token_type[...][token_types]
        if hasattr(self, "projection"):
            x = self.projection(x)
        x = constrain(self.norm(x, dtype), "batch", "seq", "act_embed")
        return dropout(x, self.config.hidden_dropout_prob, dropout_key, self.config.dropout_bits)


def buckets(distances: Int[np.ndarray, " W"], config: EncoderConfig) -> Int[np.ndarray, " W"]:
    """The row of the table for each distance, key minus query: exact near the query, by its logarithm farther away."""
    own, rows = own_fields(config), span(config)
    apart = -distances  # query minus key, as the paper has it
    if own.position_buckets > 0:
        middle, size = own.position_buckets // 2, np.abs(apart)
        last = np.float32(np.log(np.float32((farthest(config) - 1) / middle)))
        far = np.log(np.maximum(size, middle).astype(np.float32) / np.float32(middle)) / last
        far = np.ceil(far * np.float32(middle - 1)) + middle
        apart = np.where(size <= middle, apart, (far * np.sign(apart)).astype(np.int64))
    return np.clip(apart + rows, 0, 2 * rows - 1)


class SelfAttention(network.SelfAttention):
    """Self-attention whose scores add products of content and relative position."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        super().__init__(rngs, config)
        own = own_fields(config)
        D, N, H = config.hidden_size, config.num_attention_heads, config.head_width

        def linear() -> Linear:
            axes = ("embed", "heads", None)
            return Linear(rngs, {"D": D}, {"N": N, "H": H}, axes, config.initializer_range)

        if own.relative_attention and not own.share_att_key:
            if CONTENT_TO_POSITION in own.pos_att_type:
                self.position_key = linear()
            if POSITION_TO_CONTENT in own.pos_att_type:
                self.position_query = linear()

    def relative(
        self,
        query: Float[Array, "B Q N H"],
        key: Float[Array, "B S N H"],
        dropout_key: Key[Array, ""] | None,
        chosen: Chosen | None,
        table: Float[Array, "P D"] | None = None,
    ) -> tuple[Float[Array, "B Q N H"], Float[Array, "#B N Q S"] | None, Key[Array, ""] | None]:
        """The queries, scaled for as many terms as there are, and the terms of relative positions."""
        own = own_fields(self.config)
        query = query / (1 + len(own.pos_att_type)) ** 0.5
        if table is None:
            return query, None, dropout_key
        weights_key = None
        if dropout_key is not None:
            dropout_key, weights_key = jax.random.split(dropout_key)
        table = dropout(table, self.config.hidden_dropout_prob, dropout_key, self.config.dropout_bits)
        rows = buckets(relative.distances(key.shape[1]), self.config)
        bias = jnp.zeros((), jnp.float32)
        scale = key.shape[-1] ** -0.5
        if CONTENT_TO_POSITION in own.pos_att_type:
            at = (self.key if own.share_att_key else self.position_key)(table[None])[0][rows]
            scores = einsum("BQNH,WNH->BNQW", query * scale, at, jnp.float32)
            bias += relative.of_pairs(scores, chosen)
        if POSITION_TO_CONTENT in own.pos_att_type:
            scale /= (1 + len(own.pos_att_type)) ** 0.5
            # The roles are reversed: each key reads the table at the distance of each query from itself.
            at = (self.query if own.share_att_key else self.position_query)(table[None])[0][rows[::-1]]
            scores = jnp.swapaxes(
                relative.of_pairs(einsum("BSNH,WNH->BNSW", key * scale, at, jnp.float32)), 2, 3
            )
            if chosen is not None:
                scores = jnp.take_along_axis(scores, chosen.places[:, None, :, None], axis=2)
            bias += scores[:, :, : query.shape[1]]
        return query, bias if own.pos_att_type else None, weights_key


class DebertaLayer(network.EncoderLayer):
    """BERT's layer with disentangled attention."""

    attention_class = SelfAttention


class Convolution(nnx.Module):
    """A convolution over the tokens of a document, in PyTorch's layout."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        own, D = own_fields(config), config.hidden_size
        self.groups, self.width = own.conv_groups, own.conv_kernel_size
        shape = (D, D // self.groups, self.width)
        self.filters = normal(rngs, shape, config.initializer_range, (None, None, None))
        self.bias = constant(0.0, (D,), ("norm",))

    def __call__(self, x: Float[Array, "B S D"], segments: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        """Convolve; tokens of another document and padding count as 0."""
        filters = self.filters[...].astype(x.dtype).reshape(self.groups, -1, *self.filters.shape[1:])
        total = jnp.zeros((), jnp.float32)
        for index in range(self.width):
            offset = index - self.width // 2
            near, same = _shifted(x, offset), _shifted(segments, offset) == segments
            read = jnp.where(same[..., None], near, 0).reshape(*x.shape[:2], self.groups, -1)
            total += einsum("BSGI,GOI->BSGO", read, filters[..., index], jnp.float32)
        return (total.reshape(x.shape) + self.bias[...]).astype(x.dtype)


def _shifted(x: Array, offset: int) -> Array:
    """For each token, the one so many places later; 0 (of segments: padding) beyond the row."""
    after, before = max(offset, 0), max(-offset, 0)
    widths = [(0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)]
    return jnp.pad(x, widths)[:, after : after + x.shape[1]]


class Shared(nnx.Module):
    """What all layers read: the table of relative positions; and the convolution after the first layer."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        self.config, own = config, own_fields(config)
        if own.relative_attention:
            shape = (2 * span(config), config.hidden_size)
            self.positions = normal(rngs, shape, config.initializer_range, (None, "embed"))
            if own.norms_positions:
                self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        if own.convolves:
            self.convolution = Convolution(rngs, config)
            self.convolution_norm = LayerNorm(config.hidden_size, config.layer_norm_eps)

    def __call__(self, length: int, dtype: jnp.dtype) -> dict[str, Float[Array, "P D"]]:
        """The table in the compute type, normalised where the network does so."""
        if not hasattr(self, "positions"):
            return {}
        table = self.positions[...]
        return {"table": self.norm(table, dtype) if hasattr(self, "norm") else table.astype(dtype)}

    def after_first(
        self,
        embedded: Float[Array, "B S D"],
        x: Float[Array, "B S D"],
        segments: Int[Array, "B S"],
        dropout_key: Key[Array, ""] | None,
    ) -> Float[Array, "B S D"]:
        """The first layer's result with the convolution of the embeddings."""
        convolved = self.convolution(embedded, segments)
        rate = self.config.hidden_dropout_prob
        convolved = dropout(convolved, rate, dropout_key, self.config.dropout_bits)
        return self.convolution_norm(x + ACTIVATIONS[own_fields(self.config).conv_act](convolved))
