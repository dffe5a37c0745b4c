"""A look at the training questions as the model sees them, before it trains: a few lines of 80 columns."""

from collections.abc import Callable

import numpy as np

from finetune.texts.encoding import Encoded
from finetune.texts.look import BETWEEN, SHOWN, cut


def look_at_questions(encoded: Encoded, token_of: Callable[[int], str], max_length: int) -> list[str]:
    """The first windows with their answers, the numbers of questions and windows with answers, and lengths.

    Args:
      encoded: the training questions.
      token_of: the spelling of a token.
      max_length: most tokens of a window.
    """
    spans, labels = encoded.spans, encoded.labels
    assert spans is not None and labels is not None
    lines = []
    for row in range(min(SHOWN, len(encoded))):
        tokens = [token_of(int(index)) for index in encoded.tokens[row, : encoded.lengths[row]]]
        lines.append(cut(f"window {row + 1}: {BETWEEN.join(tokens)}"))
        first, last = labels[row].tolist()
        answer = f"tokens {first} to {last}: {BETWEEN.join(tokens[first : last + 1])}" if last else "none"
        lines.append(cut(f"  answer: {answer}"))
    references = spans.references
    lacking = sum(not each.answers for each in references)
    lines.append(f"questions: {len(references):,}, without an answer {lacking:,}")
    lines.append(f"windows: {len(encoded):,}, with an answer {np.count_nonzero(labels[:, 1]):,}")
    low, middle, high, most = np.percentile(encoded.lengths, (0, 50, 90, 100), method="nearest")
    lines.append(f"tokens of a window: {low} to {most}; half have {middle} or fewer, 90% {high} or fewer")
    lines.append(
        f"contexts become several windows: {encoded.truncated} of {len(references)}, at "
        f"config.max_length={max_length}"
    )
    return lines
