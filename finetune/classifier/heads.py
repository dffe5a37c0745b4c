"""The heads that classify texts or tokens, as transformers has them: one module for all families.

Each head reads one vector of a text, or that of each token, maps it to another vector of the same width, and maps that
vector to logits. The heads differ in the vector, the activation, the places of dropout, and the names of the two maps.
Most heads of tokens have no first map.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from base.errors import UserError
from pretrain.models import EncoderConfig
from pretrain.models.dropout import dropout
from pretrain.models.families.family import ClassifierHead
from pretrain.models.huggingface import checked
from pretrain.models.layers import ACTIVATIONS, Linear

OUT = "out"
"""The map to logits, without which a head is no classifier."""
DENSE = "head/dense"
"""The first map, in a family's names."""


@dataclass(frozen=True)
class HeadConfig:
    """The settings of a classification head, by its family and its config.json."""

    activation: str
    """After the first map."""
    drops_input: bool
    """Whether what the first map reads is dropped out too."""
    dropout: float
    """The dropout rate of the second map's input."""
    pooling: str = "cls"
    """What is read: the first token's vector (cls), the mean of all (mean), each token's for itself (tokens, spans), or
    each token's, whose logits are averaged (late)."""
    has_bias: bool = True
    """Whether the first map has a bias."""
    input_dropout: float = 0.0
    """The dropout rate of the first map's input, where `drops_input` does not give it the other rate."""


CLS, MEAN, TOKENS, SPANS, LATE = "cls", "mean", "tokens", "spans", "late"
"""Values of `HeadConfig.pooling`."""
TEXTS, NO_TOKEN = "texts", -1e9
"""What most heads give logits; the logit of padding as the start or the end of a span."""
POOLINGS = (CLS, MEAN)
"""Those that give a text a vector."""


def classifier_head(config: EncoderConfig, of: str = TEXTS) -> ClassifierHead:
    """The head in the family of an encoder that gives logits to texts, tokens or spans.

    Raises:
      UserError: the family has none; the message does not say where the model_type was set.
    """
    head = config.family.classifier
    if head is None:
        raise UserError(
            f"model_type={config.model_type!r} can be pretrained only: it has no head that classifies"
        )
    if of != SPANS:
        return config.family.token_classifier if of == TOKENS else head
    if config.family.question_head is None:
        raise UserError(
            f"model_type={config.model_type!r} has no {config.family.classes}ForQuestionAnswering in transformers, so "
            "it cannot be fine-tuned for questions; set config.init_from to a model of another family"
        )
    return config.family.question_head


def head_config(config: EncoderConfig, values: Mapping[str, Any], where: str, of: str = TEXTS) -> HeadConfig:
    """The head that a config.json describes.

    Args:
      config: the encoder it describes.
      values: its contents.
      where: the file, for messages.
      of: what it gives logits: texts, tokens or spans.

    Raises:
      UserError: a value that transformers does not have.
    """
    head = classifier_head(config, of)
    default = config.hidden_dropout_prob if head.rate is None else head.rate
    given = {name: value for name, value in values.items() if value is not None}
    extra = {name: checked(given, key, value, where) for name, (key, value) in head.extra.items()}
    fields = {"activation": head.activation, "drops_input": head.drops_input}
    fields |= {"pooling": of} if of != TEXTS else {}
    if "pooling" in extra and extra["pooling"] not in head.poolings:
        known = ", ".join(head.poolings)
        raise UserError(f"{where} has classifier_pooling={extra['pooling']!r}; known are {known}")
    extra |= {"pooling": head.poolings[extra["pooling"]]} if "pooling" in extra else {}
    rate = checked(given, head.dropout, default, where) if head.dropout else 0.0
    found = HeadConfig(**{**fields, "dropout": rate, **extra})
    names = {name: key for name, (key, _) in head.extra.items()} | {"dropout": head.dropout}
    for name in ("dropout", "input_dropout"):
        if not 0 <= (rate := getattr(found, name)) < 1:
            raise UserError(f"{where} has {names[name]}={rate}; it should be at least 0 and less than 1")
    if found.activation not in ACTIVATIONS:
        raise UserError(
            f"{where} has {names['activation']}={found.activation!r}; known are {', '.join(ACTIVATIONS)}"
        )
    return found


class ClassificationHead(nnx.Module):
    """Logits for texts or tokens; two maps with an activation between them, or one map."""

    def __init__(self, rngs: nnx.Rngs, encoder: EncoderConfig, config: HeadConfig, labels: int):
        self.config = config
        D = encoder.hidden_size
        head = classifier_head(encoder, config.pooling if config.pooling in (TOKENS, SPANS) else TEXTS)
        start = head.start(encoder)
        if DENSE in head.names:
            self.dense = Linear(
                rngs,
                {"D": D},
                {"E": D},
                ("embed", None),
                start.dense,
                bias=config.has_bias,
                cutoff=start.cutoff,
            )
        if head.norm is not None:
            self.norm = head.norm(encoder)
        self.out = Linear(rngs, {"E": D}, {"C": labels}, (None, None), start.out, cutoff=start.cutoff)

    def __call__(
        self,
        hidden: Float[Array, "B Q D"],
        segments: Int[Array, "B S"],
        dropout_key: Key[Array, ""] | None,
    ) -> Float[Array, "B ... C"]:
        """Logits in float32, [B, C] or of each token [B, S, C]. The whole head runs in float32.

        Padding (segment 0) is not read, and is no start or end of a span. `hidden` has at least the first token of each
        row. All poolings but cls need all tokens, Q = S.
        """
        keys = (None, None) if dropout_key is None else tuple(jax.random.split(dropout_key))
        match self.config.pooling:
            case "mean":
                x = mean_of_tokens(hidden, segments)
            case "cls":
                x = hidden[:, 0].astype(jnp.float32)
            case _:
                x = hidden.astype(jnp.float32)
        if rate := self.config.dropout if self.config.drops_input else self.config.input_dropout:
            x = dropout(x, rate, keys[0])
        if hasattr(self, "dense"):
            x = ACTIVATIONS[self.config.activation](self.dense(x))
        if hasattr(self, "norm"):
            x = self.norm(x)
        logits = self.out(dropout(x, self.config.dropout, keys[1]))
        if self.config.pooling == SPANS:
            return jnp.where(segments[..., None] > 0, logits, NO_TOKEN)
        return mean_of_tokens(logits, segments) if self.config.pooling == LATE else logits


def mean_of_tokens(hidden: Float[Array, "B S D"], segments: Int[Array, "B S"]) -> Float[Array, "B D"]:
    """The mean over each row's tokens, in float32; padding (segment 0) is not read."""
    inside = (segments > 0).astype(jnp.float32)
    total = jnp.einsum("BSD,BS->BD", hidden, inside, preferred_element_type=jnp.float32)
    return total / jnp.sum(inside, axis=1, keepdims=True)
