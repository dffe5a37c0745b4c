"""A score of each text."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from finetune.kinds import kind
from finetune.results import glue_metrics


class Scores(kind.Kind):
    """Labels are scores, float32 [B]; the loss is the squared error of the only logit."""

    name = "scores"
    problem_type = "regression"
    accuracy = False
    per_example = "a score"

    def losses(self, logits: Float[Array, "B ... C"], labels: Array, smoothing: float = 0.0) -> Array:
        """Squared error."""
        return jnp.square(logits[:, 0] - labels)

    def right(self, logits: Float[Array, "B ... C"], labels: Array) -> Array:
        """Nothing that means anything."""
        return jnp.argmax(logits, axis=1) == labels

    def predictions(self, logits: Float[np.ndarray, "n C"], threshold: float = 0.0) -> np.ndarray:
        """Scores [n]."""
        return logits[:, 0]

    def mean_loss(self, logits: Float[np.ndarray, "n C"], labels: np.ndarray) -> float:
        """Mean squared error."""
        return float(np.mean(np.square(logits.astype(np.float64)[:, 0] - labels)))

    def scores(
        self,
        metrics: Sequence[str],
        names: Sequence[str],
        logits: Float[np.ndarray, "n C"],
        labels: np.ndarray,
        groups: np.ndarray | None = None,
        threshold: float | None = None,
    ) -> kind.Scores:
        """As GLUE defines them: see `finetune.results.glue_metrics`."""
        return glue_metrics.scores(metrics, self.predictions(logits), labels)

    def columns(self, names: Sequence[str]) -> tuple[str, ...]:
        """A score."""
        return ("score",)

    def said(
        self, names: Sequence[str], logits: Float[np.ndarray, "n C"], threshold: float = 0.0
    ) -> list[tuple[str, ...]]:
        """The score."""
        return [(f"{score:.4f}",) for score in logits[:, 0]]
