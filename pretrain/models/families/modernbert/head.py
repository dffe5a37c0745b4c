"""ModernBERT's masked-language-model head as transformers runs it."""

from flax import nnx
from jaxtyping import Array, Float

from pretrain.models.config import EncoderConfig
from pretrain.models.families.bert.head import vocabulary_logits
from pretrain.models.families.modernbert.fields import own_fields
from pretrain.models.families.modernbert.network import norm, residual_std
from pretrain.models.layers import ACTIVATIONS, Linear, constant, normal


class MaskedLMHead(nnx.Module):
    """Logits over the vocabulary; the output matrix is the word embedding (tied) or one of its own."""

    def __init__(self, rngs: nnx.Rngs, config: EncoderConfig):
        own = own_fields(config)
        V, D, std = config.vocab_rows, config.hidden_size, residual_std(config)
        cutoff = own.initializer_cutoff_factor
        self.activation = ACTIVATIONS[own.classifier_activation]
        self.dense = Linear(
            rngs, {"D": D}, {"E": D}, ("embed", None), std, bias=own.classifier_bias, cutoff=cutoff
        )
        self.norm = norm(config)
        if not config.tie_word_embeddings:
            self.decoder = normal(
                rngs, (V, D), std, ("vocab", "embed"), cutoff=cutoff, used=config.vocab_size
            )
        if own.decoder_bias:
            self.bias = constant(0.0, (V,), ("vocab",))

    def __call__(self, hidden: Float[Array, "B K D"], word: Float[Array, "V D"]) -> Float[Array, "B K V"]:
        """Logits in float32 of hidden states in the compute type; `word` is the word embedding."""
        x = self.norm(self.activation(self.dense(hidden)))
        decoder = self.decoder[...] if hasattr(self, "decoder") else word
        return vocabulary_logits(x, decoder, self.bias[...] if hasattr(self, "bias") else None)
