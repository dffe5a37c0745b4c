"""Encode examples of several texts, each of which has a vector of its own: a row of token ids for each text."""

import numpy as np

from data.labelled.examples import Examples
from finetune.texts.encoding import Encoded, PairEncoder
from tokenizer.load import Loaded


class TextEncoder:
    """An encoder of T texts an example, for one tokenizer, model and length."""

    def __init__(self, tokenizer: Loaded, *, max_length: int):
        """Make the encoder for one model.

        Args:
          tokenizer: the model's tokenizer.
          max_length: most tokens of a text.

        Raises:
          UserError: the tokenizer adds no special tokens to a text, or max_length has no room for text.
        """
        self._encoder, self._pad = (
            PairEncoder(tokenizer, max_length=max_length, token_types=1),
            tokenizer.special.pad,
        )

    def __call__(self, examples: Examples) -> Encoded:
        """Encode the first texts, the second texts and the negatives, those that there are."""
        columns = [each for each in (examples.first, examples.second, examples.negatives) if each is not None]
        encodings = [self._encoder.encode(column, None) for column in columns]
        lengths = np.array([[len(each) for each in column] for column in encodings], np.int64).T
        tokens = np.full((*lengths.shape, int(lengths.max())), self._pad, np.int32)
        for place, column in enumerate(encodings):
            for row, each in enumerate(column):
                tokens[row, place, : lengths[row, place]] = each.ids
        cut = np.any([[bool(each.overflowing) for each in column] for column in encodings], axis=0)
        return Encoded(
            tokens,
            np.zeros(tokens.shape, np.int8),
            lengths.max(axis=1),
            examples.labels,
            self._pad,
            int(cut.sum()),
            text_lengths=lengths,
        )
