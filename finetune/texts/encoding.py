"""Encode examples as token ids. Pairs get the separators and token types of the model family; long texts are cut.

The rows equal the rows of transformers. The tokenizer's own post-processor adds the special tokens. A special token
that is written in a text becomes that token. A long text is cut on the side that the tokenizer's configuration names.
Padding is always on the right, whatever `padding_side` is. So a row without its padding equals the row that
transformers makes from its text alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from tokenizers import Encoding, Tokenizer

from base.errors import UserError
from data.labelled.examples import Examples
from finetune.texts.spans import LOSS, Spans, best_spans, best_windows
from tokenizer.load import Loaded, valid_unicode


@dataclass(frozen=True)
class Words:
    """Where the words of a set of sentences are in its rows: n words, sentence after sentence."""

    rows: Int[np.ndarray, "n"]
    """The row in which each word is predicted, ascending."""
    places: Int[np.ndarray, "n"]
    """The place of its first piece there."""
    sentences: Int[np.ndarray, "n"]
    """The sentence of each word, ascending."""
    labels: Int[np.ndarray, "n"] | None
    """The class of each word; None if they are hidden."""


@dataclass(frozen=True)
class Encoded:
    """A set of examples as token ids, padded to the longest example. A long sentence or context is several rows."""

    tokens: Int[np.ndarray, "n ... S"]
    """int32 token ids, with special tokens; [n, T, S] of examples of T texts."""
    token_types: Int[np.ndarray, "n ... S"]
    """int8: 0 for the first text, 1 for the second text; all 0 in families without token types."""
    lengths: Int[np.ndarray, "n"]
    """Number of tokens of each example; of T texts, that of the longest."""
    labels: np.ndarray | None
    """int32 [n] classes, float32 [n] scores or [n, C] sets of classes, int32 [n, S] classes of tokens, int32 [n, 2]
    first and last tokens of answers; None for hidden labels."""
    pad: int
    """Id of the padding token."""
    truncated: int
    """Number of examples that were cut, or of sentences or contexts that became several rows."""
    words: Words | None = None
    """The words, where words have labels."""
    text_lengths: Int[np.ndarray, "n T"] | None = None
    """Number of tokens of each text of an example, where texts have vectors of their own; else None."""
    spans: Spans | None = None
    """The windows, where answers are spans of a context."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def texts(self) -> int:
        """T, the number of texts of an example that have vectors of their own; else 1."""
        return 1 if self.text_lengths is None else self.text_lengths.shape[1]

    @property
    def targets(self) -> np.ndarray | None:
        """The labels of what is predicted, as logits [N, C] have it: of the rows, of the words, or of the questions."""
        if self.spans is not None:
            return self.spans.labels
        return self.labels if self.words is None else self.words.labels

    @property
    def sentences(self) -> np.ndarray | None:
        """The sentence of each word; None where rows have labels."""
        return None if self.words is None else self.words.sentences

    @property
    def answers(self) -> int:
        """N, the number of rows or words that are predicted."""
        return len(self) if self.words is None else len(self.words.rows)

    def empty(self, labels: int, *axes: int) -> np.ndarray:
        """An array for the logits of the whole set, float32 [..., N, C]: of the rows, or of the words.

        Args:
          labels: logits that the model gives a text, a vector or a token.
          axes: sizes of the axes before N.
        """
        width = self.texts * labels if self.spans is None else LOSS + 1
        return np.zeros((*axes, self.answers, width), np.float32)

    def whole(self, found: np.ndarray) -> np.ndarray:
        """The logits [..., N, C] of what has a label: of windows, those of their questions."""
        return found if self.spans is None else best_windows(found, self.spans)

    def put(self, found: np.ndarray, chosen: np.ndarray, logits: np.ndarray) -> None:
        """Put logits of rows where they belong.

        Args:
          found: the array of `empty`.
          chosen: indices of the rows.
          logits: theirs, [..., B, C] or of tokens [..., B, S, C]; B may be larger.
        """
        if self.spans is not None:
            targets = None if self.labels is None else self.labels[chosen]
            windows = self.spans.offsets[chosen], self.lengths[chosen], self.spans.longest
            found[..., chosen, :] = best_spans(logits[..., : len(chosen), :, :], *windows, targets)
            return
        if self.words is None:
            found[..., chosen, :] = logits[..., : len(chosen), :]
            return
        starts, stops = (np.searchsorted(self.words.rows, chosen, side) for side in ("left", "right"))
        words = np.concatenate([np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)])
        rows = np.repeat(np.arange(len(chosen)), stops - starts)
        found[..., words, :] = logits[..., rows, self.words.places[words], :]


class PairEncoder:
    """An encoder of texts and pairs of texts, for one tokenizer, model and length."""

    def __init__(self, tokenizer: Loaded, *, max_length: int, token_types: int):
        """Make the encoder for one model.

        Args:
          tokenizer: the model's tokenizer.
          max_length: most tokens of an example; the longer text of a pair is cut first.
          token_types: number of token types of the model.

        Raises:
          UserError: the tokenizer adds no special tokens to a text, or max_length has no room for text.
        """
        self._tokenizer = Tokenizer.from_str(tokenizer.tokenizer.to_str())
        self._tokenizer.encode_special_tokens = tokenizer.tokenizer.encode_special_tokens
        self._types = token_types if tokenizer.token_types else 0
        self._pad = tokenizer.special.pad
        # Numbers of special tokens that the tokenizer adds to a single text, and to a pair.
        single, self._pair = map(self._tokenizer.num_special_tokens_to_add, (False, True))
        if not single:
            raise without_special_tokens("a text")
        special = max(single, self._pair)
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

        Args:
          first: the texts, or the first text of each pair.
          second: the second text of each pair; None for single texts.

        Raises:
          UserError: there are pairs, and the tokenizer adds no special tokens to a pair.
        """
        if second is not None and not self._pair:
            raise without_special_tokens("a pair of texts")
        texts = list(first) if second is None else list(zip(first, second, strict=True))
        try:
            return self._tokenizer.encode_batch_fast(texts)
        except TypeError:
            if second is None:
                return self._tokenizer.encode_batch_fast([valid_unicode(text) for text in first])
            return self._tokenizer.encode_batch_fast(
                [(valid_unicode(a), valid_unicode(b)) for a, b in zip(first, second, strict=True)]
            )


def without_special_tokens(what: str) -> UserError:
    """The error for a tokenizer that puts none around `what`."""
    return UserError(
        f"the tokenizer of config.init_from has no post-processor that puts special tokens around {what}; "
        "save the model with a tokenizer that has one (transformers' save_pretrained of the right fast tokenizer)"
    )
