"""Any number of classes of each text."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from finetune.kinds import kind

THRESHOLD = 0.5
"""The probability from which on an example has a class, where no evaluation has chosen one."""
BETWEEN = "|"
"""Stands between the classes of an example in tables of answers."""


class MultiLabel(kind.Kind):
    """Labels are float32 [B, C], 1 for each class of an example; the loss is binary cross-entropy, mean over classes.

    One threshold of probabilities serves all classes. Each evaluation chooses the one with the highest micro F1.
    """

    name = "multi_label"
    problem_type = "multi_label_classification"
    refuses_smoothing = True
    per_example = "any number of classes"
    reported = ("threshold",)

    def losses(self, logits: Float[Array, "B ... C"], labels: Array, smoothing: float = 0.0) -> Array:
        """Binary cross-entropy of each example, as torch's BCEWithLogitsLoss has it."""
        losses = -labels * jax.nn.log_sigmoid(logits) - (1 - labels) * jax.nn.log_sigmoid(-logits)
        return jnp.mean(losses, axis=-1)

    def right(self, logits: Float[Array, "B ... C"], labels: Array) -> Array:
        """Whether all classes of an example are right at a probability of a half; evaluations have a threshold."""
        return jnp.all((logits > 0) == (labels > 0), axis=-1)

    def predictions(self, logits: Float[np.ndarray, "n C"], threshold: float = 0.0) -> np.ndarray:
        """Whether each example has each class, bool [n, C]."""
        return probabilities(logits) >= (threshold or THRESHOLD)

    def probabilities(self, logits: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "n C"]:
        """The sigmoid of each logit, in float64."""
        return probabilities(logits)

    def mean_loss(self, logits: Float[np.ndarray, "n C"], labels: np.ndarray) -> float:
        """Mean binary cross-entropy in nats."""
        logits = logits.astype(np.float64)
        return float(np.mean(np.logaddexp(0, logits) - logits * labels))

    def scores(
        self,
        metrics: Sequence[str],
        names: Sequence[str],
        logits: Float[np.ndarray, "n C"],
        labels: np.ndarray,
        groups: np.ndarray | None = None,
        threshold: float | None = None,
    ) -> kind.Scores:
        """Micro and macro F1, the share of examples with all classes right, and the threshold."""
        from sklearn.metrics import accuracy_score, f1_score

        if threshold is None:
            threshold = best_threshold(probabilities(logits), labels > 0)
        right, found = labels > 0, self.predictions(logits, threshold)
        values = {
            "accuracy": float(accuracy_score(right, found)),
            "f1_macro": float(f1_score(right, found, average="macro", zero_division=0.0)),
            "f1_micro": float(f1_score(right, found, average="micro", zero_division=0.0)),
        }
        return {metric: values[metric] for metric in metrics} | {"threshold": threshold}

    def columns(self, names: Sequence[str]) -> tuple[str, ...]:
        """Classes and their probabilities."""
        return ("labels", "probabilities")

    def said(
        self, names: Sequence[str], logits: Float[np.ndarray, "n C"], threshold: float = 0.0
    ) -> list[tuple[str, ...]]:
        """The classes whose probability reaches the threshold, and their probabilities; both may be empty."""
        found, shares = self.predictions(logits, threshold), probabilities(logits)
        chosen = [np.flatnonzero(each).tolist() for each in found]
        return [
            (
                BETWEEN.join(names[index] for index in classes),
                BETWEEN.join(f"{shares[row, index]:.4f}" for index in classes),
            )
            for row, classes in enumerate(chosen)
        ]


def probabilities(logits: Float[np.ndarray, "n C"]) -> Float[np.ndarray, "n C"]:
    """The probability of each class, in float64."""
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64)))


def best_threshold(shares: Float[np.ndarray, "n C"], right: np.ndarray) -> float:
    """The threshold of probabilities with the highest micro F1: half way between two probabilities.

    Args:
      shares: probabilities.
      right: whether each example has each class, bool [n, C].
    """
    order = np.argsort(-shares, axis=None, kind="stable")
    values, hits = shares.ravel()[order], np.cumsum(right.ravel()[order])
    f1 = 2 * hits / (np.arange(1, len(values) + 1) + hits[-1])
    below = np.append(values[1:], 0.0)
    last_of_equals = values > below
    if not hits[-1] or not last_of_equals.any():
        return THRESHOLD
    best = int(np.argmax(np.where(last_of_equals, f1, -1.0)))
    return float((values[best] + below[best]) / 2)
