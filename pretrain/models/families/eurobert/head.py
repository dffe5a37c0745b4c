"""EuroBERT's masked-language-model head as transformers runs it."""

from flax import nnx
from jaxtyping import Array, Float

from pretrain.models.config import EncoderConfig
from pretrain.models.families.bert.head import vocabulary_logits
from pretrain.models.families.eurobert.fields import own_fields
from pretrain.models.layers import constant, normal


class MaskedLMHead(nnx.Module):
    """Logits over the vocabulary; the output matrix is one of its own, or the word embedding (tied)."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        V, D, std = config.vocab_rows, config.hidden_size, config.initializer_range
        if not config.tie_word_embeddings:
            self.decoder = normal(rngs, (V, D), std, ("vocab", "embed"), used=config.vocab_size)
        if own_fields(config).mlp_bias:
            self.bias = constant(0.0, (V,), ("vocab",))

    def __call__(self, hidden: Float[Array, "B K D"], word: Float[Array, "V D"]) -> Float[Array, "B K V"]:
        """Logits in float32 of hidden states in the compute type; `word` is the word embedding."""
        decoder = self.decoder[...] if hasattr(self, "decoder") else word
        return vocabulary_logits(hidden, decoder, self.bias[...] if hasattr(self, "bias") else None)
