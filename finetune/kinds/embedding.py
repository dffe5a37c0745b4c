"""A vector of each text: near for texts that belong together.

The "logits" of an example are the vectors of its T texts, of equal norm: their dot products are cosines divided by the
temperature. So the loss needs nothing else, and cosines are dot products of normalised vectors.
"""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from finetune.kinds import kind
from finetune.results import glue_metrics
from finetune.results.ranking import ranking_loss, ranking_scores, ranks


class Embedding(kind.Kind):
    """Pairs that belong together. Labels are numbers of second texts, int32 [B]; equal texts have equal numbers.

    The loss is InfoNCE (van den Oord et al. 2018) with the other second texts of the batch, and all negatives, as
    negatives: sentence-transformers' MultipleNegativesRankingLoss.
    """

    name = "embedding"
    task_class = "Model"
    problem_type: ClassVar[str | None] = None
    refuses_smoothing = True
    embeds = True
    per_example = "a text that belongs to it"

    def losses(self, logits: Float[Array, "B T D"], labels: Array, smoothing: float = 0.0) -> Array:
        """InfoNCE of each pair, where all rows are examples."""
        return self.losses_in_batch(logits, labels, jnp.ones(logits.shape[:1], jnp.float32), smoothing)

    def losses_in_batch(
        self,
        logits: Float[Array, "B T D"],
        labels: Array,
        weights: Float[Array, "B"],
        smoothing: float = 0.0,
    ) -> Array:
        """InfoNCE of each pair. Texts of rows without weight are no negatives."""
        scores = _scores(logits)
        among = jnp.where(weights > 0, scores, -jnp.inf)
        return jax.nn.logsumexp(among, axis=(1, 2)) - _own(scores)

    def right(self, logits: Float[Array, "B T D"], labels: Array) -> Array:
        """Whether no other text of the batch is nearer to the first text than the second."""
        scores = _scores(logits)
        return _own(scores) >= jnp.max(scores, axis=(1, 2))

    def predictions(self, logits: Float[np.ndarray, "n C"], threshold: float = 0.0) -> np.ndarray:
        """The cosine of each pair [n]."""
        first, second = np.moveaxis(unit_vectors(logits), 1, 0)
        return np.sum(first * second, axis=1)

    def mean_loss(self, logits: Float[np.ndarray, "n C"], labels: np.ndarray) -> float:
        """The mean InfoNCE with all second texts of the set."""
        return ranking_loss(vectors_of(logits), labels)

    def scores(
        self,
        metrics: Sequence[str],
        names: Sequence[str],
        logits: Float[np.ndarray, "n C"],
        labels: np.ndarray,
        groups: np.ndarray | None = None,
        threshold: float | None = None,
    ) -> kind.Scores:
        """Scores of the rank of each second text among all: see `finetune.results.ranking`."""
        found = ranking_scores(ranks(vectors_of(logits), labels))
        return {metric: found[metric] for metric in metrics}

    def columns(self, names: Sequence[str]) -> tuple[str, ...]:
        """A cosine."""
        return ("cosine",)

    def said(
        self, names: Sequence[str], logits: Float[np.ndarray, "n C"], threshold: float = 0.0
    ) -> list[tuple[str, ...]]:
        """The cosine of each pair."""
        return [(f"{cosine:.4f}",) for cosine in self.predictions(logits)]


class Similarity(Embedding):
    """The same, evaluated on pairs with scores of their similarity, float32 [n]."""

    name = "similarity"

    def mean_loss(self, logits: Float[np.ndarray, "n C"], labels: np.ndarray) -> float:
        """The mean squared difference of cosines and scores; scores are brought to the range from 0 to 1."""
        low, high = labels.min(), labels.max()
        scaled = (labels - low) / (high - low if high > low else 1.0)
        return float(np.mean(np.square(self.predictions(logits).astype(np.float64) - scaled)))

    def scores(
        self,
        metrics: Sequence[str],
        names: Sequence[str],
        logits: Float[np.ndarray, "n C"],
        labels: np.ndarray,
        groups: np.ndarray | None = None,
        threshold: float | None = None,
    ) -> kind.Scores:
        """Correlations of cosines and scores."""
        return glue_metrics.scores(metrics, self.predictions(logits), labels)


def _scores(vectors: Float[Array, "B T D"]) -> Float[Array, "B R B"]:
    """The dot products of each first text with the R = T - 1 other texts of all rows."""
    return jnp.einsum("BD,CRD->BRC", vectors[:, 0], vectors[:, 1:], precision="highest")


def _own(scores: Float[Array, "B R B"]) -> Float[Array, "B"]:
    return jnp.diagonal(scores[:, 0])


def vectors_of(logits: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "n 2 D"]:
    """The vectors of both texts of each pair."""
    return logits.reshape(len(logits), 2, -1)


def unit_vectors(logits: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "n 2 D"]:
    """The same with norm 1."""
    vectors = vectors_of(logits)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
