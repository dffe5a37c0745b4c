"""The heads that classify a text, as transformers' ...ForSequenceClassification has them: one module, a row a family.

All of them read one vector of a text, map it to another of its width, and that to logits. They differ in which vector,
in the activation, in where dropout is, and in what the two maps are called.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from base.errors import UserError
from pretrain.models import EncoderConfig
from pretrain.models.dropout import dropout
from pretrain.models.huggingface import checked
from pretrain.models.layers import ACTIVATIONS, LayerNorm, Linear

OUT = "out"
"""The map to logits, without which a head is no classifier."""


@dataclass(frozen=True)
class HeadConfig:
    """What a family's head is like, and what a config.json says of it."""

    activation: str
    """After the first map."""
    drops_input: bool
    """Whether what the first map reads is dropped out too."""
    dropout: float
    """Of what the second map reads."""
    pooling: str = "cls"
    """The vector that is read: the first token's (cls), or the mean of all (mean)."""
    has_bias: bool = True
    """Whether the first map has a bias."""
    has_norm: bool = False
    """Whether a layer norm follows the activation."""


@dataclass(frozen=True)
class Head:
    """A row of the table."""

    names: Mapping[str, str]
    """Our modules and their names in a state dict."""
    activation: str
    drops_input: bool = False
    dropout: str = "classifier_dropout"
    """The field of config.json with the rate."""
    rate: float | None = None
    """The rate where that is left out; None is the rate of hidden states."""
    extra: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    """Other fields of `HeadConfig`: what config.json calls them, and what it means to leave them out."""
    has_norm: bool = False


_ROBERTA = Head(
    names={"head/dense": "classifier.dense", "head/out": "classifier.out_proj"},
    activation="tanh",
    drops_input=True,
)
HEADS: Mapping[str, Head] = {
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "bert": Head(
        names={"head/dense": "bert.pooler.dense", "head/out": "classifier"},
        activation="tanh",
    ),
    "distilbert": Head(
        names={"head/dense": "pre_classifier", "head/out": "classifier"},
        activation="relu",
        dropout="seq_classif_dropout",
        rate=0.2,
    ),
    "electra": Head(
        names={"head/dense": "classifier.dense", "head/out": "classifier.out_proj"},
        activation="gelu",
        drops_input=True,
    ),
    "modernbert": Head(
        names={"head/dense": "head.dense", "head/norm": "head.norm", "head/out": "classifier"},
        activation="gelu",
        rate=0.0,
        extra={
            "activation": ("classifier_activation", "gelu"),
            "pooling": ("classifier_pooling", "cls"),
            "has_bias": ("classifier_bias", False),
        },
        has_norm=True,
    ),
}
POOLINGS = ("cls", "mean")


def head_config(config: EncoderConfig, values: Mapping[str, Any], where: str) -> HeadConfig:
    """The head that a config.json describes.

    Args:
      config: the encoder it describes.
      values: its contents.
      where: the file, for messages.

    Raises:
      UserError: a value that transformers does not have.
    """
    head = HEADS[config.model_type]
    default = config.hidden_dropout_prob if head.rate is None else head.rate
    given = {name: value for name, value in values.items() if value is not None}
    extra = {name: checked(given, key, value, where) for name, (key, value) in head.extra.items()}
    fields = {"activation": head.activation, "drops_input": head.drops_input, "has_norm": head.has_norm}
    found = HeadConfig(**{**fields, "dropout": checked(given, head.dropout, default, where), **extra})
    if found.pooling not in POOLINGS:
        raise UserError(f"{where} has classifier_pooling={found.pooling!r}; known are {', '.join(POOLINGS)}")
    if found.activation not in ACTIVATIONS:
        raise UserError(
            f"{where} has classifier_activation={found.activation!r}; known are {', '.join(ACTIVATIONS)}"
        )
    return found


class ClassificationHead(nnx.Module):
    """Logits for texts; two maps with an activation between them."""

    def __init__(self, rngs: nnx.Rngs, encoder: EncoderConfig, config: HeadConfig, labels: int):
        self.config = config
        D = encoder.hidden_size
        start = _start(encoder)
        self.dense = Linear(
            rngs,
            {"D": D},
            {"E": D},
            ("embed", None),
            start.dense,
            bias=config.has_bias,
            cutoff=start.cutoff,
        )
        if config.has_norm:
            assert encoder.modernbert is not None
            self.norm = LayerNorm(D, encoder.layer_norm_eps, bias=encoder.modernbert.norm_bias)
        self.out = Linear(rngs, {"E": D}, {"C": labels}, (None, None), start.out, cutoff=start.cutoff)

    def __call__(
        self,
        hidden: Float[Array, "B Q D"],
        segments: Int[Array, "B S"],
        dropout_key: Key[Array, ""] | None,
    ) -> Float[Array, "B C"]:
        """Logits in float32, in which the whole head runs; padding (segment 0) is not read.

        Hidden states are those of the first token at least; to take a mean of, those of all tokens.
        """
        keys = (None, None) if dropout_key is None else tuple(jax.random.split(dropout_key))
        x = _mean(hidden, segments) if self.config.pooling == "mean" else hidden[:, 0].astype(jnp.float32)
        if self.config.drops_input:
            x = dropout(x, self.config.dropout, keys[0])
        x = ACTIVATIONS[self.config.activation](self.dense(x))
        if self.config.has_norm:
            x = self.norm(x)
        return self.out(dropout(x, self.config.dropout, keys[1]))


def _mean(hidden: Float[Array, "B S D"], segments: Int[Array, "B S"]) -> Float[Array, "B D"]:
    inside = (segments > 0).astype(jnp.float32)
    total = jnp.einsum("BSD,BS->BD", hidden, inside, preferred_element_type=jnp.float32)
    return total / jnp.sum(inside, axis=1, keepdims=True)


@dataclass(frozen=True)
class _Start:
    """Standard deviations of the kernels' start."""

    dense: float
    out: float
    cutoff: float | None


def _start(encoder: EncoderConfig) -> _Start:
    std = encoder.initializer_range
    if encoder.modernbert is None:
        return _Start(std, std, None)
    deep = std / (2 * encoder.num_hidden_layers) ** 0.5
    return _Start(deep, encoder.hidden_size**-0.5, encoder.modernbert.initializer_cutoff_factor)
