"""The useful arithmetic of a step: matrix products of the tokens that are there, counted honestly.

Counted is what the training objective needs: products forward, and twice that backward (for inputs and
for weights). Not counted: padding, attention between documents that are kept apart, the vocabulary head at
positions that are not predicted, recomputation (remat), element-wise work. Hence a model FLOPs utilisation
(Chowdhery et al. 2022, appendix B) that is comparable across layouts of a batch and across kernels, and
lower than one that counts whatever the device did.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Int

FORWARD_AND_BACKWARD = 3
"""A product's gradient is two more products of its size."""


class EncoderShape(Protocol):
    """The fields of a model config that its arithmetic depends on, by transformers' names."""

    @property
    def hidden_size(self) -> int:
        """Model width D."""

    @property
    def num_hidden_layers(self) -> int:
        """Layers L."""

    @property
    def intermediate_size(self) -> int:
        """Feed-forward width F."""

    @property
    def vocab_size(self) -> int:
        """Tokens V."""


@dataclass(frozen=True)
class StepWork:
    """The arithmetic of training steps of one network."""

    shape: EncoderShape

    def flops(self, *, tokens: float, attended: float, predictions: float) -> float:
        """FLOPs of a training step, forward and backward; arguments as in `forward_flops`."""
        return FORWARD_AND_BACKWARD * forward_flops(
            self.shape, tokens=tokens, attended=attended, predictions=predictions
        )


def forward_flops(shape: EncoderShape, *, tokens: float, attended: float, predictions: float) -> float:
    """FLOPs of a forward pass over some rows; a multiply and an add are two.

    Args:
      shape: widths of the network.
      tokens: tokens that are not padding.
      attended: pairs of tokens that see each other: the sum of `squared_segment_lengths`.
      predictions: positions that are really predicted, each over the whole vocabulary.
    """
    width, layers = shape.hidden_size, shape.num_hidden_layers
    projections = 4 * width * width  # query, key, value, output
    feed_forward = 2 * width * shape.intermediate_size
    attention = 2 * width  # the scores, and their product with the values
    head = width * width + width * shape.vocab_size
    multiplies = layers * (tokens * (projections + feed_forward) + attended * attention) + predictions * head
    return 2.0 * multiplies


def squared_segment_lengths(segments: Int[np.ndarray, "B S"]) -> Int[np.ndarray, "B"]:
    """For each row, the sum of its documents' lengths squared: the pairs of tokens that see each other.

    Args:
      segments: 0 for padding, 1.. for the document within the row.
    """
    rows, documents = segments.shape[0], int(segments.max(initial=0)) + 1
    keys = segments + documents * np.arange(rows)[:, None]
    lengths = np.bincount(keys.ravel(), minlength=rows * documents).reshape(rows, documents)[:, 1:]
    return np.sum(lengths * lengths, axis=1)
