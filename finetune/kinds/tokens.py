"""A class of each word: entities, parts of speech."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from data.labelled.sentences import are_entities
from finetune.kinds.classes import Classes
from finetune.kinds.kind import Scores
from finetune.results import glue_metrics
from finetune.results.entities import entity_scores


class Tokens(Classes):
    """Labels are ids of classes, int32 [B, S], negative for tokens without one; the loss is the mean over tokens."""

    name = "tokens"
    task_class = "ForTokenClassification"
    problem_type = None
    head = "tokens"
    per_token = True

    def weights(self, weights: Float[Array, "B"], labels: Array) -> Array:
        """The weight of its row for a token with a label, 0 for others."""
        return weights[:, None] * (labels >= 0).astype(jnp.float32)

    def scores(
        self,
        metrics: Sequence[str],
        names: Sequence[str],
        logits: Float[np.ndarray, "n C"],
        labels: np.ndarray,
        groups: np.ndarray | None = None,
        threshold: float | None = None,
    ) -> Scores:
        """Accuracy of words; precision, recall and F1 of entities where tags mark them, else F1 of classes."""
        found = self.predictions(logits)
        if not are_entities(names):
            return glue_metrics.scores(metrics, found, labels)
        assert groups is not None
        cuts = np.flatnonzero(np.diff(groups)) + 1
        tags = np.array(names, object)
        told, right = ([list(each) for each in np.split(tags[ids], cuts)] for ids in (found, labels))
        values = entity_scores(told, right) | {"accuracy": glue_metrics.accuracy(found, labels)}
        return {metric: values[metric] for metric in metrics}
