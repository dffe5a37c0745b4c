"""A look at the training pairs of an embedder as the model sees them, before it trains: a few lines of 80 columns."""

from collections.abc import Callable

import numpy as np

from finetune.texts.encoding import Encoded
from finetune.texts.look import BETWEEN, SHOWN, cut

NAMES = ("first text", "second text", "negative")


def look_at_pairs(encoded: Encoded, token_of: Callable[[int], str], max_length: int) -> list[str]:
    """The texts of the first pairs, their lengths, and what is cut.

    Args:
      encoded: the training pairs.
      token_of: the spelling of a token.
      max_length: most tokens of a text.
    """
    assert encoded.text_lengths is not None
    lines = []
    for row in range(min(SHOWN, len(encoded))):
        for place, length in enumerate(encoded.text_lengths[row]):
            tokens = [token_of(int(index)) for index in encoded.tokens[row, place, :length]]
            lines.append(cut(f"pair {row + 1}, {NAMES[place]}: {BETWEEN.join(tokens)}"))
    for place, lengths in enumerate(encoded.text_lengths.T):
        low, middle, high, most = np.percentile(lengths, (0, 50, 90, 100), method="nearest")
        lines.append(
            f"tokens of a {NAMES[place]}: {low} to {most}; half have {middle} or fewer, 90% {high} or fewer"
        )
    lines.append(
        f"pairs with a text that is cut: {encoded.truncated} of {len(encoded)}, at {max_length} tokens"
    )
    return lines
