"""What a network needs to be built: every field resolved, hashable, named as transformers names it."""

from dataclasses import dataclass

from data.errors import UserError

ROBERTA_TYPES = ("roberta", "xlm-roberta", "camembert")
MODEL_TYPES = (*ROBERTA_TYPES, "bert")


@dataclass(frozen=True)
class EncoderConfig:
    """One encoder with its masked-language-model head; the fields of transformers' config.json and how to run it.

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
    layer_norm_eps: float
    initializer_range: float
    hidden_dropout_prob: float
    attention_probs_dropout_prob: float
    tie_word_embeddings: bool
    pad_token_id: int
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    attention: str = "auto"
    remat: bool = False
    scan_unroll: int = 1

    def __post_init__(self) -> None:
        """Check the sizes against each other."""
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "type_vocab_size",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} should be 1 or more")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"hidden_size={self.hidden_size} should be a multiple of num_attention_heads={self.num_attention_heads}"
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
