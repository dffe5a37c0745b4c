"""MPNet's layer as transformers runs it: BERT's with a bias of relative positions, the same in all layers."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from pretrain.models import relative
from pretrain.models.config import EncoderConfig
from pretrain.models.families.bert import network
from pretrain.models.families.mpnet.fields import BUCKETS, FARTHEST
from pretrain.models.kernels.sight import Chosen
from pretrain.models.layers import normal


def buckets(distances: Int[np.ndarray, " W"]) -> Int[np.ndarray, " W"]:
    """The bucket of each distance: exact near the query, by its logarithm farther away (Raffel et al. 2020)."""
    half, exact = BUCKETS // 2, BUCKETS // 4
    size = np.abs(distances)
    scale = np.float32(np.log(FARTHEST / exact))
    far = (
        np.log(np.maximum(size, 1).astype(np.float32) / np.float32(exact)) / scale * np.float32(half - exact)
    )
    far = np.minimum(exact + far.astype(np.int64), half - 1)
    return np.where(distances > 0, half, 0) + np.where(size < exact, size, far)


class PositionBias(nnx.Module):
    """For each head, what is added to its scores at each distance."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        shape = (BUCKETS, config.num_attention_heads)
        self.relative = normal(rngs, shape, config.initializer_range, (None, "heads"))

    def __call__(self, length: int, dtype: jnp.dtype) -> dict[str, Float[Array, "N W"]]:
        """The biases in float32, by distance in a row of so many tokens."""
        return {"bias": self.relative[...][buckets(relative.distances(length))].T}


class SelfAttention(network.SelfAttention):
    """BERT's self-attention with the bias."""

    def relative(
        self,
        query: Float[Array, "B Q N H"],
        key: Float[Array, "B S N H"],
        dropout_key: Key[Array, ""] | None,
        chosen: Chosen | None,
        bias: Float[Array, "N W"] | None = None,
    ) -> tuple[Float[Array, "B Q N H"], Float[Array, "#B N Q S"] | None, Key[Array, ""] | None]:
        """The bias of each pair of tokens."""
        assert bias is not None, "it is shared by all layers"
        B, Q = query.shape[:2]
        rows = 1 if chosen is None else B
        spread = jnp.broadcast_to(bias[None, :, None], (rows, bias.shape[0], Q, bias.shape[1]))
        return query, relative.of_pairs(spread, chosen), dropout_key


class MPNetLayer(network.EncoderLayer):
    """BERT's layer with the bias."""

    attention_class = SelfAttention
