"""Labelled examples as every source gives them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from base.errors import UserError
from data.labelled.config import LabelledConfig
from data.labelled.labels import UNLABELLED
from data.labelled.tasks import Task


@dataclass(frozen=True)
class Examples:
    """Texts or pairs of texts, in the order of their source; never empty."""

    first: list[str]
    second: list[str] | None
    """The other text of each pair; None where examples are single texts."""
    labels: np.ndarray | None
    """int32 [n] ids of classes, or float32 [n] scores; None where they are hidden, as those of GLUE's test sets.

    In a test set some may be missing: UNLABELLED, or NaN.
    """
    ids: list[int | str]
    """Names of the examples in their source: GLUE's index, else numbers from 0."""
    origin: str
    """Where they are from, for messages and results: 'hub nyu-mll/glue mrpc train'."""
    official: bool
    """Whether this is a whole split of GLUE as published."""

    def __len__(self) -> int:
        return len(self.first)

    @property
    def labelled(self) -> np.ndarray:
        """Which examples have a label, bool [n]."""
        if self.labels is None:
            return np.zeros(len(self), bool)
        return (self.labels != UNLABELLED) if self.labels.dtype == np.int32 else ~np.isnan(self.labels)


@dataclass(frozen=True)
class LabelledData:
    """All that belongs to a task; a split that the source does not have is left out."""

    task: Task
    train: Examples | None
    evaluations: dict[str, Examples]
    tests: dict[str, Examples]


@dataclass(frozen=True)
class Limits:
    """The most examples to take, the first of each set; None for all."""

    train: int | None = None
    evaluation: int | None = None

    @classmethod
    def from_config(cls, config: LabelledConfig) -> "Limits":
        """The limits that a run's config.data sets.

        Raises:
          UserError: a negative one.
        """
        for name in ("max_train_examples", "max_eval_examples"):
            if getattr(config, name) < 0:
                raise UserError(f"config.data.{name}={getattr(config, name)} should be 0 (all) or more")
        return cls(config.max_train_examples or None, config.max_eval_examples or None)

    def of(self, task: Task, split: str) -> int | None:
        """The limit of a task's split; test sets have none, for GLUE wants a prediction of every example."""
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
    """Examples of a GLUE split, with what sets them apart from the published one said in their origin.

    Args:
      task: whose they are.
      split: which split they are, or stand for.
      texts: the first texts [n], and the second where there are pairs.
      labels: as in `Examples`.
      ids: as in `Examples`.
      origin: the place they were read from.
      limit: the most examples that were asked for; None for all.
      same_file: False where the source says that this is not the published split.
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


def by_split(task: Task, found: Mapping[str, Examples]) -> LabelledData:
    """The splits of a task, each in its part."""
    return LabelledData(
        task,
        train=found.get(task.train),
        evaluations={split: found[split] for split in task.evaluations if split in found},
        tests={split: found[split] for split in task.tests if split in found},
    )
