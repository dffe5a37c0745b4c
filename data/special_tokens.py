"""The special tokens that rows are built of and masks are made with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens of a masked language model's tokenizer, whatever its family calls them."""

    cls: int
    """Opens a row or document: `<s>` (RoBERTa), `[CLS]` (BERT)."""
    sep: int
    """Closes a document: `</s>`, `[SEP]`."""
    pad: int
    """Fills a row: `<pad>`, `[PAD]`."""
    mask: int
    """Stands for a predicted token: `<mask>`, `[MASK]`."""
    unk: int
    """Stands for text that the vocabulary cannot express: `<unk>`, `[UNK]`."""
