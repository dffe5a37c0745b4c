"""One class of each text."""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from finetune.kinds.kind import Kind, Scores
from finetune.results import glue_metrics


class Classes(Kind):
    """Labels are ids of classes, int32 [B]; the loss is cross-entropy in nats."""

    name = "classes"
    problem_type: ClassVar[str | None] = "single_label_classification"

    def losses(self, logits: Float[Array, "B ... C"], labels: Array, smoothing: float = 0.0) -> Array:
        """Cross-entropy.

        Args:
          logits: of C classes.
          labels: ids; a negative one gives a loss that does not count.
          smoothing: share of the target that is spread over all classes (Szegedy et al. 2016).
        """
        log_probabilities = jax.nn.log_softmax(logits)
        count = logits.shape[-1]
        target = jax.nn.one_hot(labels, count) * (1 - smoothing) + smoothing / count
        return -jnp.sum(target * log_probabilities, axis=-1)

    def right(self, logits: Float[Array, "B ... C"], labels: Array) -> Array:
        """Whether the most probable class is the label."""
        return jnp.argmax(logits, axis=-1) == labels

    def predictions(self, logits: Float[np.ndarray, "n C"], threshold: float = 0.0) -> np.ndarray:
        """Ids of the most probable classes [n]."""
        return logits.argmax(axis=1)

    def probabilities(self, logits: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "n C"]:
        """The softmax of the logits, in float64."""
        shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))

    def mean_loss(self, logits: Float[np.ndarray, "n C"], labels: np.ndarray) -> float:
        """Mean cross-entropy in nats."""
        logits = logits.astype(np.float64)
        highest = logits.max(axis=1)
        normaliser = np.log(np.exp(logits - highest[:, None]).sum(axis=1)) + highest
        return float(np.mean(normaliser - logits[np.arange(len(labels)), labels]))

    def scores(
        self,
        metrics: Sequence[str],
        names: Sequence[str],
        logits: Float[np.ndarray, "n C"],
        labels: np.ndarray,
        groups: np.ndarray | None = None,
        threshold: float | None = None,
    ) -> Scores:
        """As GLUE defines them: see `finetune.results.glue_metrics`."""
        return glue_metrics.scores(metrics, self.predictions(logits), labels)

    def columns(self, names: Sequence[str]) -> tuple[str, ...]:
        """A class and its probability."""
        return ("label", "probability")

    def said(
        self, names: Sequence[str], logits: Float[np.ndarray, "n C"], threshold: float = 0.0
    ) -> list[tuple[str, ...]]:
        """The most probable class, and its probability."""
        probabilities = self.probabilities(logits)
        return [
            (names[index], f"{probability:.4f}")
            for index, probability in zip(
                probabilities.argmax(axis=1), probabilities.max(axis=1), strict=True
            )
        ]
