"""Labelled examples, in the form that every source returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from base.errors import UserError
from data.labelled.config import LabelledConfig
from data.labelled.labels import UNLABELLED
from data.labelled.questions import Questions
from data.labelled.sentences import Sentences
from data.labelled.tasks import Task


@dataclass(frozen=True)
class Examples:
    """Single texts or pairs of texts, n in number, in their source's order; never empty."""

    first: list[str]
    second: list[str] | None
    """Second text of each pair; None if examples are single texts."""
    labels: np.ndarray | None
    """int32 [n] ids of classes, float32 [n] scores, or float32 [n, C] with 1 for each class that an example has.

    None if they are hidden, as in GLUE's test sets. In a test set some may be missing: they are UNLABELLED, or NaN.
    """
    ids: list[int | str]
    """Ids of the examples in their source: GLUE's index, or else numbers from 0."""
    origin: str
    """Name of the source, for messages and results: 'hub nyu-mll/glue mrpc train'."""
    official: bool
    """Whether these examples are a whole split of GLUE as published."""
    negatives: list[str] | None = None
    """A text for each pair that does not belong to its first text, to train embeddings; None if there are none."""

    def __len__(self) -> int:
        return len(self.first)

    @property
    def labelled(self) -> np.ndarray:
        """Whether each example has a label, bool [n]."""
        if self.labels is None:
            return np.zeros(len(self), bool)
        labels = self.labels[:, 0] if self.labels.ndim > 1 else self.labels
        return (labels != UNLABELLED) if labels.dtype == np.int32 else ~np.isnan(labels)

    @property
    def labelled_count(self) -> int:
        """Number of examples with a label."""
        return int(self.labelled.sum())


AnyExamples = Examples | Sentences | Questions
"""The examples of any kind of task."""


@dataclass(frozen=True)
class LabelledData:
    """All examples of a task; splits that the source lacks are left out."""

    task: Task
    train: AnyExamples | None
    evaluations: Mapping[str, AnyExamples]
    tests: Mapping[str, AnyExamples]


@dataclass(frozen=True)
class Limits:
    """Largest number of examples to read from the start of each set; None for all."""

    train: int | None = None
    evaluation: int | None = None

    @classmethod
    def from_config(cls, config: LabelledConfig) -> "Limits":
        """The limits in a run's config.data.

        Raises:
          UserError: a limit is negative.
        """
        for name in ("max_train_examples", "max_eval_examples"):
            if getattr(config, name) < 0:
                raise UserError(f"config.data.{name}={getattr(config, name)} should be 0 (all) or more")
        return cls(config.max_train_examples or None, config.max_eval_examples or None)

    def of(self, task: Task, split: str) -> int | None:
        """The limit of a task's split. Test sets have none, because GLUE needs a prediction for every example."""
        if split in task.tests:
            return None
        return self.train if split == task.train else self.evaluation


def glue_examples(
    task: Task,
    split: str,
    texts: Sequence[list[str]],
    labels: np.ndarray | None,
    ids: Sequence[int | str],
    *,
    origin: str,
    limit: int | None,
    same_file: bool = True,
) -> Examples:
    """Examples of a GLUE split; their origin tells how they differ from the published split.

    Args:
      task: the task of the examples.
      split: the split that they are, or that they replace.
      texts: first texts [n], and second texts [n] if the task has pairs.
      labels: as in `Examples`.
      ids: as in `Examples`.
      origin: name of the place that they were read from.
      limit: largest number of examples that the user asked for; None for all.
      same_file: False if the source states that this is not the published split.
    """
    count, published = len(texts[0]), task.rows[split]
    official = same_file and count == published
    if not same_file:
        origin += " (not the official file)"
    elif count != published and count != limit:
        origin += f" ({count} examples, officially {published})"
    if count == limit and not official:
        origin += f", first {limit}"
    second = texts[1] if len(texts) > 1 else None
    return Examples(texts[0], second, labels, list(ids), origin, official)


def by_split(task: Task, examples: Mapping[str, Examples]) -> LabelledData:
    """Sort a task's splits into training, evaluation and test sets."""
    return LabelledData(
        task,
        train=examples.get(task.train),
        evaluations={split: examples[split] for split in task.evaluations if split in examples},
        tests={split: examples[split] for split in task.tests if split in examples},
    )
