"""What a model reaches that knows how frequent each token is, and nothing else: the plateau that training begins with.

A model learns token frequencies first. Its loss then stays near theirs until it learns to use the context; a small
model on little text may stay there for most of a run. So every evaluation has this loss beside its own.
"""

from collections.abc import Mapping

import numpy as np

FREQUENCY_LOSS = "eval/frequency_loss"
MARGIN = 0.1
"""A model has left token frequencies when its held-out loss is so many nats below theirs. A thousand predictions give
this loss with a standard error of a twelfth of a nat."""


def frequency_loss(tokens: np.ndarray, counts: np.ndarray) -> float:
    """The loss of token frequencies, in nats a token; one is added to each count.

    The frequencies are those of training text. Those of the tokens themselves would give a loss, their entropy, that is
    too low where tokens are few: most of the vocabulary is not among them.

    Args:
      tokens: those of held-out rows that may be predicted, int32 [N], N > 0.
      counts: the number of times that each token occurs in training text, int [V].
    """
    shares = (counts + 1.0) / (counts.sum() + len(counts))
    return float(-np.log(shares[tokens]).mean())


def has_left(loss: float, frequencies: float) -> bool:
    """Whether a held-out loss shows that a model uses the context."""
    return loss < frequencies - MARGIN


def verdict(values: Mapping[str, float | None]) -> str:
    """What an evaluation says of token frequencies, as a sentence; empty if it does not have their loss.

    Args:
      values: metrics by full name; None is a value that is not finite.
    """
    frequencies, loss = values.get(FREQUENCY_LOSS), values.get("eval/loss")
    if frequencies is None or loss is None:
        return ""
    alone = f"token frequencies alone have a held-out loss of {frequencies:.2f}"
    if has_left(loss, frequencies):
        return f"{alone}; the model has left them, by {frequencies - loss:.2f}"
    return (
        f"{alone}; the model ({loss:.2f}) is not below it: no use of the context shows yet, so train longer"
    )
