"""The FLOPs of a training step: the matrix products that the training objective needs.

The count has the products of the forward pass, and twice as many of the backward pass (for inputs and for weights). It
leaves out padding of rows and of the vocabulary, attention between separate documents or beyond a layer's window, the
vocabulary head and narrow layers at positions that are not predicted, recomputation (remat), and element-wise work. So
the model FLOPs utilisation (Chowdhery et al. 2022, appendix B) is comparable across batch layouts and kernels. It is
lower than a utilisation that counts all work of the device.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from jaxtyping import Float, Int

Pairs = TypeVar("Pairs", bound=Any)
"""A number, or an array of numbers."""

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

    @property
    def narrow_layers(self) -> int:
        """The last layers that compute the predicted tokens alone."""

    @property
    def embedding_size(self) -> int:
        """Width E of the embeddings; 0 where it is D."""

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward layers have a gate: two maps from D to F, and one back."""

    @property
    def num_attention_heads(self) -> int:
        """Heads of queries N."""

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values."""

    @property
    def relative_terms(self) -> int | None:
        """Products of a relative position with query or key that are added to a score."""


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
      attended: pairs of tokens in a layer of which the first sees the second. It is the sum of `seen_pairs`; under
        causal attention, it is `causal_pairs` of this sum.
      predictions: number of predicted positions; each has logits over the whole vocabulary.
    """
    width, layers = shape.hidden_size, shape.num_hidden_layers
    embedding = shape.embedding_size or width
    shared = shape.key_value_heads / shape.num_attention_heads
    projections = (2 + 2 * shared) * width * width  # query and output, key and value
    feed_forward = (3 if shape.is_gated else 2) * width * shape.intermediate_size
    attention = (2 + (shape.relative_terms or 0)) * width  # the scores, and their product with the values
    head = width * embedding + embedding * shape.vocab_size
    multiplies = layers * (tokens * (projections + feed_forward) + attended * attention) + predictions * head
    if shape.narrow_layers and tokens:
        spared = 2 * width * width + feed_forward + attended / tokens * attention  # all but key and value
        multiplies -= shape.narrow_layers * max(tokens - predictions, 0) * spared
    if embedding != width:
        multiplies += tokens * embedding * width
    return 2.0 * multiplies


def seen_pairs(segments: Int[np.ndarray, "B S"], windows: Sequence[int] = ()) -> Float[np.ndarray, "B"]:
    """For each row, the pairs of tokens that see each other in a layer; the mean over layers where these differ.

    Args:
      segments: 0 for padding, 1.. for the document within the row.
      windows: as of `pairs_of_documents`.
    """
    rows, documents = segments.shape[0], int(segments.max(initial=0)) + 1
    keys = segments + documents * np.arange(rows)[:, None]
    lengths = np.bincount(keys.ravel(), minlength=rows * documents).reshape(rows, documents)[:, 1:]
    return np.sum(pairs_of_documents(lengths, windows), axis=1)


def pairs_of_documents(
    lengths: Int[np.ndarray, "..."] | int, windows: Sequence[int] = ()
) -> Float[np.ndarray, "..."]:
    """The pairs of tokens that see each other in a document of each length; the mean over layers where these differ.

    Args:
      lengths: tokens of documents.
      windows: for each layer, how far a token sees to both sides, 0 for the whole document; () where all layers see it.
    """
    lengths = np.asarray(lengths, np.int64)
    total = np.zeros(lengths.shape)
    for window, layers in Counter(windows or (0,)).items():
        far = np.maximum(np.minimum(window or np.inf, lengths - 1), 0)
        # n - d pairs of tokens have the distance d, on each side.
        total += layers * (lengths + 2 * (far * lengths - far * (far + 1) / 2))
    return total / max(len(windows), 1)


def causal_pairs(seen: Pairs, tokens: Pairs) -> Pairs:
    """The pairs of which the first token sees the second under causal attention, for any windows.

    Args:
      seen: the pairs where each sees both sides.
      tokens: the tokens, each of which sees itself.
    """
    return (seen + tokens) / 2
