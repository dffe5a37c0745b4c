"""BERT's masked-language-model head as transformers runs it, and that of RoBERTa and ELECTRA."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from pretrain.devices.mesh import constrain, gathered
from pretrain.models.config import EncoderConfig
from pretrain.models.layers import ACTIVATIONS, LayerNorm, Linear, constant, normal
from pretrain.models.matrix_products import einsum


def vocabulary_logits(
    x: Float[Array, "B K E"], decoder: Float[Array, "V E"], bias: Float[Array, "V"] | None
) -> Float[Array, "B K V"]:
    """Logits in float32 over the vocabulary.

    Args:
      x: what the head makes of hidden states, in the compute type.
      decoder: the output matrix.
      bias: of each token of the vocabulary; None adds nothing.
    """
    decoder = gathered(decoder.astype(x.dtype), ("vocab", "embed"))
    logits = einsum("BKD,VD->BKV", x, decoder, jnp.float32)
    if bias is not None:
        # An outer product with ones: its gradient is a matrix product, 50 times faster on CPU than a sum over B and K.
        logits += einsum("BK,V->BKV", jnp.ones(logits.shape[:2], bias.dtype), gathered(bias, ("vocab",)))
    return constrain(logits, "batch", None, "act_vocab")


class MaskedLMHead(nnx.Module):
    """Logits over the vocabulary; the output matrix is the word embedding (tied) or one of its own."""

    hidden_act = ""
    """The activation, where it is not the config's."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        V, D, std = config.vocab_rows, config.hidden_size, config.initializer_range
        E = config.embedding_size or D
        self.activation = ACTIVATIONS[self.hidden_act or config.hidden_act]
        self.dense = Linear(rngs, {"D": D}, {"E": E}, ("embed", None), std)
        self.norm = LayerNorm(E, config.layer_norm_eps)
        if not config.tie_word_embeddings:
            self.decoder = normal(rngs, (V, E), std, ("vocab", "embed"), used=config.vocab_size)
        self.bias = constant(0.0, (V,), ("vocab",))

    def __call__(self, hidden: Float[Array, "B K D"], word: Float[Array, "V E"]) -> Float[Array, "B K V"]:
        """Logits in float32 of hidden states in the compute type; `word` is the word embedding."""
        x = self.norm(self.activation(self.dense(hidden)))
        decoder = self.decoder[...] if hasattr(self, "decoder") else word
        return vocabulary_logits(x, decoder, self.bias[...])


class GeluHead(MaskedLMHead):
    """The same with GELU, whatever the activation of the layers."""

    hidden_act = "gelu"
