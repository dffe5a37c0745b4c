"""What a network needs to be built: every field resolved, hashable, named as transformers names it."""

from dataclasses import dataclass

from base.errors import UserError

ROBERTA_TYPES = ("roberta", "xlm-roberta", "camembert")
MASKED_LM_TYPES = (*ROBERTA_TYPES, "bert")
"""The types that pretrain: those whose masked-language-model head is here."""

UNTYPED = ("distilbert", "modernbert")
"""The types whose networks do not tell a first text from a second."""


@dataclass(frozen=True)
class ModernBertFields:
    """What only ModernBERT's layers have; named as in its config.json, or explained."""

    windows: tuple[int, ...]
    """For each layer, how far from itself a token sees, to both sides; 0 is the whole document."""
    thetas: tuple[float, ...]
    """For each layer, the base of its rotary embedding's wavelengths."""
    norm_bias: bool
    attention_bias: bool
    mlp_bias: bool
    embedding_dropout: float
    mlp_dropout: float
    initializer_cutoff_factor: float


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
    """Width of the embeddings, where another one than `hidden_size` is projected to it; 0 where it is the same."""
    modernbert: ModernBertFields | None = None
    attention: str = "auto"
    remat: bool = False
    scan_unroll: int = 1
    position_init: str = "normal"
    """How the position embedding starts: "normal", or "sinusoidal"."""

    def __post_init__(self) -> None:
        """Check the sizes against each other."""
        sizes = [
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
        ]
        for name in sizes if self.model_type in UNTYPED else [*sizes, "type_vocab_size"]:
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} should be 1 or more")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"hidden_size={self.hidden_size} should be a multiple of num_attention_heads={self.num_attention_heads}"
            )
        if self.modernbert is not None and self.head_width % 2:
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
        if self.scan_unroll < 0:
            raise UserError(f"scan_unroll={self.scan_unroll} should be 0 (all layers) or more")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} should be at least 0 and less than 1")

    def require_masked_lm(self) -> None:
        """Refuse a network that only fine-tuning knows.

        Raises:
          UserError: there is no masked-language-model head for it here; the message does not say where it was set.
        """
        if self.model_type not in MASKED_LM_TYPES:
            raise UserError(
                f"model_type={self.model_type!r} can be fine-tuned only; pretraining knows {', '.join(MASKED_LM_TYPES)}"
            )

    @property
    def is_roberta(self) -> bool:
        """Whether this is RoBERTa or one of the types that run its network (XLM-R, CamemBERT)."""
        return self.model_type in ROBERTA_TYPES

    @property
    def position_offset(self) -> int:
        """Row of the position table that the first token takes: RoBERTa counts from pad_token_id + 1, BERT from 0."""
        return self.pad_token_id + 1 if self.is_roberta else 0

    @property
    def max_length(self) -> int:
        """The longest row S that the position table has room for."""
        return self.max_position_embeddings - self.position_offset

    @property
    def head_width(self) -> int:
        """Width H of one attention head."""
        return self.hidden_size // self.num_attention_heads
