"""Examples as token ids: pairs with the separators and token types of the family, cut to a length.

Rows are those that transformers makes: the tokenizer's own post-processor puts the special tokens in, a special token
that is written in a text is that token, and a long text is cut where the tokenizer's configuration says. Padding stands
on the right whatever `padding_side` says: a row is what transformers makes of its text alone, without padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from tokenizers import Encoding, Tokenizer

from base.errors import UserError
from data.labelled.examples import Examples
from tokenizer.load import Loaded, valid_unicode


@dataclass(frozen=True)
class Encoded:
    """A set of examples as ids, padded to the longest."""

    tokens: Int[np.ndarray, "n S"]
    """int32, special tokens included."""
    token_types: Int[np.ndarray, "n S"]
    """int8: 0 for the first text, 1 for the second in families that tell them apart."""
    lengths: Int[np.ndarray, "n"]
    """Tokens of each example."""
    labels: np.ndarray | None
    """int32 [n] classes, float32 [n] scores; None where they are hidden."""
    pad: int
    """Id of the padding token."""
    truncated: int
    """Examples that were cut."""

    def __len__(self) -> int:
        return len(self.tokens)


class PairEncoder:
    """Encodes texts and pairs of texts for one tokenizer, model and length."""

    def __init__(self, tokenizer: Loaded, *, max_length: int, token_types: int):
        """Encode for one model.

        Args:
          tokenizer: the model's.
          max_length: tokens that examples are cut to, the longer text of a pair first.
          token_types: how many the model tells apart.

        Raises:
          UserError: the tokenizer puts no special tokens around a text, or max_length has no room for text.
        """
        self._tokenizer = Tokenizer.from_str(tokenizer.tokenizer.to_str())
        self._tokenizer.encode_special_tokens = tokenizer.tokenizer.encode_special_tokens
        self._types = token_types if tokenizer.token_types else 0
        self._pad = tokenizer.special.pad
        of_one, self._of_a_pair = map(self._tokenizer.num_special_tokens_to_add, (False, True))
        if not of_one:
            raise _without_special_tokens("a text")
        special = max(of_one, self._of_a_pair)
        if max_length < special + 2:
            raise UserError(
                f"config.max_length={max_length} leaves no room for text: a pair has {special} special tokens"
            )
        self._tokenizer.enable_truncation(
            max_length, strategy="longest_first", direction=tokenizer.truncation_side
        )

    def __call__(self, examples: Examples) -> Encoded:
        """Encode examples."""
        encodings = self.encode(examples.first, examples.second)
        lengths = np.array([len(encoding) for encoding in encodings], np.int64)
        shape = (len(lengths), int(lengths.max()))
        tokens, token_types = np.full(shape, self._pad, np.int32), np.zeros(shape, np.int8)
        for row, encoding in enumerate(encodings):
            tokens[row, : lengths[row]] = encoding.ids
            if self._types > 1:
                token_types[row, : lengths[row]] = encoding.type_ids
        truncated = sum(bool(encoding.overflowing) for encoding in encodings)
        return Encoded(tokens, token_types, lengths, examples.labels, self._pad, truncated)

    def encode(self, first: Sequence[str], second: Sequence[str] | None) -> list[Encoding]:
        """The tokenizer's encodings of texts, or of pairs of texts.

        Raises:
          UserError: there are pairs, and the tokenizer puts no special tokens around one.
        """
        if second is not None and not self._of_a_pair:
            raise _without_special_tokens("a pair of texts")
        texts = list(first) if second is None else list(zip(first, second, strict=True))
        try:
            return self._tokenizer.encode_batch_fast(texts)
        except TypeError:
            if second is None:
                return self._tokenizer.encode_batch_fast([valid_unicode(text) for text in first])
            return self._tokenizer.encode_batch_fast(
                [(valid_unicode(a), valid_unicode(b)) for a, b in zip(first, second, strict=True)]
            )


def _without_special_tokens(what: str) -> UserError:
    return UserError(
        f"the tokenizer of config.init_from has no post-processor that puts special tokens around {what}; "
        "save it with one (transformers' save_pretrained of the right fast tokenizer)"
    )
