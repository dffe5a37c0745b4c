"""The config from which a network is built: every field is resolved, hashable, and has transformers' name."""

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from base.errors import UserError
from pretrain.models import families

if TYPE_CHECKING:
    from pretrain.models.families.family import Family


LARGEST = {
    "vocab_size": 10**8,
    "hidden_size": 10**6,
    "num_hidden_layers": 10**4,
    "num_attention_heads": 10**5,
    "intermediate_size": 10**7,
    "max_position_embeddings": 10**8,
    "type_vocab_size": 10**6,
    "embedding_size": 10**6,
}
"""Sizes far above those of any network; a larger one is a damaged or hostile file."""


@dataclass(frozen=True)
class OwnFields:
    """Fields of config.json that only one family has. Each such family has a subclass of this class."""

    @property
    def windows(self) -> tuple[int, ...]:
        """For each layer, how far from itself a token sees, to both sides; 0 is the whole document; () in all."""
        return ()

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward layers have a gate."""
        return False

    @property
    def relative_terms(self) -> int | None:
        """Products of a relative position with query or key, which are added to a score; None adds nothing."""
        return None

    @property
    def convolves(self) -> bool:
        """Whether a convolution of the embeddings is added after the first layer."""
        return False

    @property
    def key_value_heads(self) -> int | None:
        """Heads of keys and values, each of which several heads of queries share; None is as many as those."""
        return None

    def layer_sources(self, layers: int) -> tuple[int, ...]:
        """For each layer, its place in the stacked params. Layers of the same place share their params."""
        return tuple(range(layers))

    def with_layers(self, layers: int) -> Self:
        """The fields of a network of so many layers: the first ones, or more of them in the same order."""
        return self


@dataclass(frozen=True)
class EncoderConfig:
    """One encoder: the fields of transformers' config.json, by BERT's names for them, and how to run it.

    Raises:
      UserError: sizes that do not fit each other; the message begins with the field's name, without where it was set.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str
    max_position_embeddings: int
    type_vocab_size: int
    """Token types; 0 in families that have none."""
    layer_norm_eps: float
    initializer_range: float
    hidden_dropout_prob: float
    attention_probs_dropout_prob: float
    tie_word_embeddings: bool
    pad_token_id: int
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    embedding_size: int = 0
    """Width of the embeddings, if it differs from `hidden_size` and is projected to it; 0 if it is the same."""
    own: OwnFields | None = None
    """Fields that only its family has."""
    vocab_multiple: int = 1
    """The vocabulary axes of params are padded to a multiple of this."""
    attention: str = "auto"
    remat: str = "none"
    """What the backward pass computes again, see `pretrain.models.recomputation`."""
    scan_unroll: int | None = 1
    """Layers unrolled in each iteration of the loop over them; 0 is all; None leaves it to the platform."""
    narrow_layers: int = 0
    """The last layers that compute the predicted tokens alone in training."""
    dropout_bits: int = 16
    """Random bits that decide each element of a dropout mask: 8, 16 or 0 (see `pretrain.models.dropout`)."""
    position_init: str = "normal"
    """How the position embedding starts: "normal" or "sinusoidal"; "neighbours": so that heads look at neighbours."""

    def __post_init__(self) -> None:
        """Check the sizes against each other."""
        sizes = [
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
        ]
        least = dict.fromkeys(sizes, 1)
        if self.family.has_token_types:
            least["type_vocab_size"] = min(self.family.defaults["type_vocab_size"], 1)
        for name, number in least.items():
            if getattr(self, name) < number:
                raise UserError(f"{name}={getattr(self, name)} should be {number} or more")
        for name, largest in LARGEST.items():
            if getattr(self, name) > largest:
                raise UserError(f"{name}={getattr(self, name)} should be {largest:,} or less")
        if not 0 < self.layer_norm_eps < 1:
            raise UserError(f"layer_norm_eps={self.layer_norm_eps} should be above 0 and less than 1")
        if not 0 <= self.initializer_range < math.inf:
            raise UserError(f"initializer_range={self.initializer_range} should be a number from 0 on")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"hidden_size={self.hidden_size} should be a multiple of num_attention_heads={self.num_attention_heads}"
            )
        if self.num_attention_heads % self.key_value_heads:
            raise UserError(
                f"num_attention_heads={self.num_attention_heads} should be a multiple of"
                f" num_key_value_heads={self.key_value_heads}"
            )
        if self.family.is_rotary and self.head_width % 2:
            raise UserError(
                f"hidden_size={self.hidden_size} should be a multiple of twice"
                f" num_attention_heads={self.num_attention_heads}: halves of a head are rotated"
            )
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise UserError(f"vocab_size={self.vocab_size} should be above pad_token_id={self.pad_token_id}")
        if self.max_length < 1:
            raise UserError(
                f"max_position_embeddings={self.max_position_embeddings} should be {self.position_offset + 1} or more:"
                f" {self.model_type} sets {self.position_offset} of them aside"
            )
        if self.embedding_size < 0:
            raise UserError(f"embedding_size={self.embedding_size} should be 1 or more")
        if self.vocab_multiple < 1:
            raise UserError(f"vocab_multiple={self.vocab_multiple} should be 1 (rounds nothing) or more")
        if self.scan_unroll is not None and self.scan_unroll < 0:
            raise UserError(f"scan_unroll={self.scan_unroll} should be 0 (all layers) or more")
        if not 0 <= self.narrow_layers < self.num_hidden_layers:
            raise UserError(
                f"narrow_layers={self.narrow_layers} should be 0 (none) or more, and less than"
                f" num_hidden_layers={self.num_hidden_layers}"
            )
        self._check_position_init()
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            _check_rate(name, getattr(self, name))
        for rate in (self.hidden_dropout, self.attention_probs_dropout_prob):
            if self.dropout_bits == 8 and rate and not 0 < round(rate * 256) < 256:
                raise UserError(f"dropout_bits=8 cannot give a dropout of {rate}: set dropout_bits=16")

    def _check_position_init(self) -> None:
        """Refuse a start of positions that the network cannot have."""
        start = f"position_init={self.position_init!r}"
        if self.position_init == "sinusoidal" and not self.family.has_position_table:
            others = "normal or neighbours" if self.family.parts.neighbours is not None else "normal"
            raise UserError(f"{start}: {self.model_type} has no position embedding; set it to {others}")
        if self.position_init == "neighbours" and self.family.parts.neighbours is None:
            raise UserError(f"{start}: {self.model_type} has no such start; set it to normal")
        if self.position_init == "neighbours" and self.embedding_size not in (0, self.hidden_size):
            raise UserError(
                f"{start} needs embedding_size={self.hidden_size}, which is hidden_size, and not {self.embedding_size}"
            )

    def require_masked_lm(self) -> None:
        """Refuse a network that can only be fine-tuned.

        Raises:
          UserError: there is no masked-language-model head for it here; the message does not say where it was set.
        """
        if self.family.head is None:
            raise UserError(
                f"model_type={self.model_type!r} can be fine-tuned only; pretraining knows"
                f" {', '.join(families.pretrained())}"
            )

    def with_layers(self, layers: int) -> Self:
        """The network with another number of layers: its first ones, or more of them in the same order.

        Raises:
          UserError: more layers, and no order in which their kinds would go on.
        """
        own = self.own and self.own.with_layers(layers)
        narrow = min(self.narrow_layers, layers - 1)
        return dataclasses.replace(self, num_hidden_layers=layers, narrow_layers=narrow, own=own)

    def with_own(self, **fields: Any) -> Self:
        """The same network with other values of fields that only its family has."""
        assert self.own is not None
        return dataclasses.replace(self, own=dataclasses.replace(self.own, **fields))

    @property
    def family(self) -> "Family":
        """The family of this model_type, as this network has it."""
        family = families.get(self.model_type)
        return family.variant(self, family)

    @property
    def unrolled(self) -> bool:
        """Whether no loop runs the layers."""
        return self.scan_unroll == 0

    @property
    def windows(self) -> tuple[int, ...]:
        """For each layer, how far from itself a token sees, to both sides; 0 is the whole document; () in all."""
        return self.own.windows if self.own else ()

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward layers have a gate, which is another map as wide as the first."""
        return self.own is not None and self.own.is_gated

    @property
    def relative_terms(self) -> int | None:
        """Products of a relative position with query or key, which are added to a score; None adds nothing."""
        return self.own.relative_terms if self.own else None

    @property
    def convolves(self) -> bool:
        """Whether a convolution of the embeddings is added after the first layer."""
        return self.own is not None and self.own.convolves

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values, of which each serves as many heads of queries."""
        return (self.own and self.own.key_value_heads) or self.num_attention_heads

    @property
    def layer_sources(self) -> tuple[int, ...]:
        """For each layer, its place in the stacked params; not distinct where layers share their params."""
        layers = self.num_hidden_layers
        return self.own.layer_sources(layers) if self.own else tuple(range(layers))

    @property
    def stacked_layers(self) -> int:
        """Layers that have params of their own."""
        return len(set(self.layer_sources))

    @property
    def position_offset(self) -> int:
        """Row of the position table that the first token takes: RoBERTa counts from pad_token_id + 1, BERT from 0."""
        return self.pad_token_id + 1 if self.family.positions_skip_padding else 0

    @property
    def max_length(self) -> int:
        """The longest row S that the position table has room for."""
        return self.max_position_embeddings - self.position_offset

    @property
    def vocab_rows(self) -> int:
        """Length of the vocabulary axes of params: the tokens, and the padding rows, which have no token."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @property
    def head_width(self) -> int:
        """Width H of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def hidden_dropout(self) -> float | None:
        """The dropout rate of hidden states; None if there are several rates that differ."""
        rates = {getattr(self.own, name) for name in self.family.hidden_dropouts}
        return (rates.pop() if len(rates) == 1 else None) if rates else self.hidden_dropout_prob

    def with_hidden_dropout(self, rate: float) -> "EncoderConfig":
        """The same network with another dropout of hidden states.

        Raises:
          UserError: the rate is below 0, or it is 1 or more, or the family has no such dropout.
        """
        _check_rate("hidden_dropout_prob", rate)
        if not (names := self.family.hidden_dropouts):
            if rate and "hidden_dropout_prob" in self.family.constants:
                raise UserError(
                    f"hidden_dropout_prob={rate}: {self.model_type} has no dropout of hidden states; unset it"
                )
            return dataclasses.replace(self, hidden_dropout_prob=rate)
        assert self.own is not None
        changed: Any = dict.fromkeys(names, rate)
        return dataclasses.replace(self, own=dataclasses.replace(self.own, **changed))


def _check_rate(name: str, rate: float) -> None:
    if not 0 <= rate < 1:
        raise UserError(f"{name}={rate} should be at least 0 and less than 1")
