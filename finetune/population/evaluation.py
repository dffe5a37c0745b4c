"""Evaluate every member of a population on every evaluation set. Each example counts exactly once."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data.labelled.tasks import Task
from finetune.classifier.network import Classifier
from finetune.kinds import kind_of
from finetune.population.state import batch_shardings, to_devices
from finetune.population.train_step import make_logits
from finetune.texts.batching import evaluation_batches
from finetune.texts.encoding import Encoded
from pretrain.devices.mesh import BATCH_AXES, sharding

Scores = dict[str, float]
AHEAD = 4
"""Batches that are computed while the logits of earlier ones are fetched."""


class Predictor:
    """A function that computes the logits of every member for a set of examples."""

    def __init__(self, classifier: Classifier, mesh: Mesh, lengths: Sequence[int], batch: int):
        """Make the function.

        Args:
          classifier: the network.
          mesh: the devices.
          lengths: row lengths that batches are padded to, in tokens.
          batch: rows of a batch; it is rounded up to a multiple of the devices that share a batch.
        """
        across = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
        self._batch = -(-batch // across) * across
        self._lengths = tuple(lengths)
        self._shardings = batch_shardings(mesh, members=False)
        axes = (None,) * (4 if classifier.kind.per_token or classifier.kind.extracts else 3)
        self._logits = jax.jit(make_logits(classifier), out_shardings=sharding(mesh, axes))
        self._labels = classifier.labels

    def __call__(self, params: Any, encoded: Encoded) -> np.ndarray:
        """Logits float32 [M, N, C], in the order of the examples, or of their words; C = T x D of T vectors.

        Of questions they are the answers, whose columns are those of `finetune.texts.spans`.
        """
        members = jax.tree.leaves(params)[0].shape[0]
        result = encoded.empty(self._labels, members)
        begun: deque[tuple[np.ndarray, jax.Array]] = deque()
        for chosen, rows in evaluation_batches(encoded, self._lengths, self._batch):
            begun.append((chosen, self._logits(params, to_devices(rows.as_dict(), self._shardings))))
            if len(begun) > AHEAD:  # so that the logits of all tokens of a set are never there at once
                _fetch(encoded, result, *begun.popleft())
        while begun:
            _fetch(encoded, result, *begun.popleft())
        return encoded.whole(result)


def _fetch(encoded: Encoded, result: np.ndarray, chosen: np.ndarray, logits: jax.Array) -> None:
    encoded.put(result, chosen, np.asarray(logits))


@dataclass(frozen=True)
class EvaluationSet:
    """A set of examples for evaluation."""

    name: str
    """Name of the split in the results; '' if the task has only one evaluation set."""
    encoded: Encoded


def evaluate(predictor: Predictor, params: Any, sets: Sequence[EvaluationSet], task: Task) -> list[Scores]:
    """The metrics of each member: {'accuracy': ..., 'loss': ..., 'mismatched/accuracy': ...}."""
    results: list[Scores] = []
    for evaluated in sets:
        for member, logits in enumerate(predictor(params, evaluated.encoded)):
            if len(results) <= member:
                results.append({})
            results[member] |= scores_on(evaluated, logits, task)
    return results


def scores_on(
    evaluated: EvaluationSet, logits: np.ndarray, task: Task, threshold: float | None = None
) -> Scores:
    """Metrics and loss of one model's logits [n, C] on a set. A set with a name puts NAME/ before each metric."""
    labels = evaluated.encoded.targets
    assert labels is not None
    prefix = f"{evaluated.name}/" if evaluated.name else ""
    found = scores_of(task, logits, labels, evaluated.encoded.sentences, threshold)
    return {f"{prefix}{name}": value for name, value in found.items()}


def scores_of(
    task: Task,
    logits: np.ndarray,
    labels: np.ndarray,
    sentences: np.ndarray | None = None,
    threshold: float | None = None,
) -> Scores:
    """Metrics and loss of logits [n, C], n > 0. All are NaN if a logit is not finite: the model has diverged.

    Args:
      task: the task.
      logits: those of the examples, or of their words.
      labels: the right answers.
      sentences: the sentence of each word; None where examples have labels.
      threshold: see `finetune.kinds.kind.Kind.scores`.
    """
    kind = kind_of(task)
    if not np.isfinite(logits).all():
        return dict.fromkeys((*task.scores, *kind.reported, "loss"), math.nan)
    found = kind.scores(task.metrics, task.labels, logits, labels, sentences, threshold)
    if task.own_metrics is not None:
        found |= task.own_metrics(logits, labels, sentences, found.get("threshold", threshold))
    return found | {"loss": kind.mean_loss(logits, labels)}


def mean_over_members(values: Sequence[Mapping[str, float]]) -> Scores:
    """The mean of each metric over the members."""
    return {name: float(np.mean([member[name] for member in values])) for name in values[0]}
