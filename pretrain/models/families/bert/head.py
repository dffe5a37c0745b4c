"""BERT's masked-language-model head as transformers runs it, and that of RoBERTa."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from pretrain.devices.mesh import constrain, gathered
from pretrain.models.config import EncoderConfig
from pretrain.models.layers import ACTIVATIONS, LayerNorm, Linear, constant, normal
from pretrain.models.matrix_products import einsum


class MaskedLMHead(nnx.Module):
    """Logits over the vocabulary; the output matrix is the word embedding (tied) or one of its own."""

    hidden_act = ""
    """The activation, where it is not the config's."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        V, D, std = config.vocab_size, config.hidden_size, config.initializer_range
        self.activation = ACTIVATIONS[self.hidden_act or config.hidden_act]
        self.dense = Linear(rngs, {"D": D}, {"E": D}, ("embed", None), std)
        self.norm = LayerNorm(D, config.layer_norm_eps)
        if not config.tie_word_embeddings:
            self.decoder = normal(rngs, (V, D), std, ("vocab", "embed"))
        self.bias = constant(0.0, (V,), ("vocab",))

    def __call__(self, hidden: Float[Array, "B K D"], word: Float[Array, "V D"]) -> Float[Array, "B K V"]:
        """Logits in float32 of hidden states in the compute type; `word` is the word embedding."""
        x = self.norm(self.activation(self.dense(hidden)))
        stored = (self.decoder[...] if hasattr(self, "decoder") else word).astype(x.dtype)
        decoder = gathered(stored, ("vocab", "embed"))
        logits = einsum("BKD,VD->BKV", x, decoder, jnp.float32)
        # An outer product with ones: its gradient is a matrix product, 50 times faster on CPU than a sum over B and K.
        logits += jnp.einsum("BK,V->BKV", jnp.ones(logits.shape[:2]), self.bias[...])
        return constrain(logits, "batch", None, "act_vocab")


class GeluHead(MaskedLMHead):
    """The same with GELU, whatever the activation of the layers."""

    hidden_act = "gelu"
