"""The special tokens of rows and masks."""

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens of a masked language model's tokenizer; each family has other names for them."""

    cls: int
    """First token of a row or document: `<s>` (RoBERTa), `[CLS]` (BERT)."""
    sep: int
    """Last token of a document: `</s>`, `[SEP]`."""
    pad: int
    """Fills the rest of a row: `<pad>`, `[PAD]`."""
    mask: int
    """Replaces a token that the model predicts: `<mask>`, `[MASK]`."""
    unk: int | None = None
    """Replaces text that the vocabulary cannot express: `<unk>`, `[UNK]`; None if it expresses every text."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids, in the order of the roles."""
        return tuple(each for each in dataclasses.astuple(self) if each is not None)
