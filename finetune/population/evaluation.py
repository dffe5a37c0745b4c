"""Evaluate every member of a population on every evaluation set. Each example counts exactly once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data.labelled.tasks import Task
from finetune.classifier.network import Classifier
from finetune.population.state import batch_shardings, to_devices
from finetune.population.train_step import make_logits
from finetune.results.glue_metrics import scores
from finetune.texts.batching import evaluation_batches
from finetune.texts.encoding import Encoded
from pretrain.devices.mesh import BATCH_AXES, sharding

Scores = dict[str, float]


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
        self._logits = jax.jit(make_logits(classifier), out_shardings=sharding(mesh, (None, None, None)))

    def __call__(self, params: Any, encoded: Encoded) -> np.ndarray:
        """Logits float32 [M, n, C], in the order of the examples."""
        parts, order = [], []
        for chosen, rows in evaluation_batches(encoded, self._lengths, self._batch):
            logits = self._logits(params, to_devices(rows.as_dict(), self._shardings))
            parts.append(logits)
            order.append(chosen)
        by_length = np.concatenate(
            [np.asarray(part)[:, : len(chosen)] for part, chosen in zip(parts, order, strict=True)], axis=1
        )
        result = np.empty_like(by_length)
        result[:, np.concatenate(order)] = by_length
        return result


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


def scores_on(evaluated: EvaluationSet, logits: np.ndarray, task: Task) -> Scores:
    """Metrics and loss of one model's logits [n, C] on a set. A set with a name puts NAME/ before each metric."""
    labels = evaluated.encoded.labels
    assert labels is not None
    prefix = f"{evaluated.name}/" if evaluated.name else ""
    return {f"{prefix}{name}": value for name, value in scores_of(task, logits, labels).items()}


def scores_of(task: Task, logits: np.ndarray, labels: np.ndarray) -> Scores:
    """Metrics and loss of logits [n, C], n > 0. All are NaN if a logit is not finite: the model has diverged."""
    if not np.isfinite(logits).all():
        return dict.fromkeys((*task.metrics, "loss"), math.nan)
    return scores(task.metrics, predictions(task, logits), labels) | {"loss": mean_loss(logits, labels)}


def predictions(task: Task, logits: np.ndarray) -> np.ndarray:
    """The predictions of logits [n, C]: class ids [n], or scores [n] for a task with scores."""
    return logits.argmax(axis=1) if task.labels else logits[:, 0]


def mean_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy in nats (classes), or mean squared error (scores), computed in float64."""
    logits = logits.astype(np.float64)
    if np.issubdtype(labels.dtype, np.floating):
        return float(np.mean(np.square(logits[:, 0] - labels)))
    highest = logits.max(axis=1)
    normaliser = np.log(np.exp(logits - highest[:, None]).sum(axis=1)) + highest
    return float(np.mean(normaliser - logits[np.arange(len(labels)), labels]))


def mean_over_members(values: Sequence[Mapping[str, float]]) -> Scores:
    """The mean of each metric over the members."""
    return {name: float(np.mean([member[name] for member in values])) for name in values[0]}
