"""GLUE splits from whole columns, as the hub and TFDS give them."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from base.errors import UserError
from data.labelled.classes import Classes, matching
from data.labelled.examples import Examples, glue_examples
from data.labelled.labels import UNLABELLED
from data.labelled.tasks import Task

logger = logging.getLogger(__name__)

LABEL = "label"
IDENTITY = "idx"
HIDDEN = -1


def check_columns(task: Task, present: Sequence[str], setting: str) -> None:
    """Refuse a data set that lacks a column of the task.

    Args:
      task: the GLUE task.
      present: names of the data set's columns.
      setting: the setting that names the data set, for messages.

    Raises:
      UserError: a column of texts or the column of labels is missing.
    """
    for name in (*task.texts, LABEL):
        if name not in present:
            raise UserError(
                f"{setting} has no column {name!r} for config.task={task.name}; columns there: "
                f"{', '.join(sorted(present))}"
            )


def split_of_columns(
    task: Task,
    split: str,
    texts: Sequence[list[str]],
    labels: Sequence[float | str],
    names: Sequence[str] | None,
    ids: Sequence[int],
    *,
    origin: str,
    limit: int | None,
) -> Examples:
    """Examples of a split. Its labels are ids in the order of `names`, or names, or scores.

    Ids are converted to the task's order if the order of `names` differs. In a test split, labels may be missing or
    unknown. If all of its labels are -1, they are hidden.

    Args:
      task: the GLUE task.
      split: the split's name.
      texts: first texts [n], and second texts [n] if the task has pairs.
      labels: labels [n].
      names: the source's names of the classes, by id; None if the source has no names.
      ids: ids of the examples [n].
      origin: name of the split, for messages.
      limit: largest number of examples that the user asked for; None for all.

    Raises:
      UserError: there are no examples; or, in a split that is no test split, a class is unknown or a score not finite.
    """
    if not texts[0]:
        raise UserError(f"{origin}: there are no examples")
    values = _values(labels, names or task.labels)
    if split in task.tests:
        known = _known_of_test(task, labels, values, names, origin)
    else:
        known = _known(task, labels, values, names, origin)
    return glue_examples(task, split, texts, known, ids, origin=origin, limit=limit)


def _values(labels: Sequence[Any], names: Sequence[str]) -> np.ndarray:
    """Labels as float64 [n]: scores, or ids in the order of `names`; NaN for a label that is neither."""
    try:
        return np.asarray(labels, np.float64)
    except (TypeError, ValueError):
        classes = Classes(tuple(names), ids=True)
        ids = [classes.find(str(label).strip()) for label in labels]
        return np.array([np.nan if index is None else index for index in ids], np.float64)


def _known(
    task: Task, labels: Sequence[Any], values: np.ndarray, names: Sequence[str] | None, origin: str
) -> np.ndarray:
    order = _order(task, names)
    if order is None:
        raise UserError(
            f"{origin}: its classes are {', '.join(names or ())}; they should be {', '.join(task.labels)}"
        )
    bad = np.flatnonzero(~_valid(task, values))
    if bad.size:
        label = labels[bad[0]]
        shown = repr(label) if isinstance(label, str) else f"{values[bad[0]]:g}"
        right = (
            f"is not one of the ids of the classes {', '.join(task.labels)}, 0 to {len(task.labels) - 1}"
            if task.labels
            else "should be a number, for a score"
        )
        raise UserError(f"{origin} row {bad[0] + 1}: label {shown} {right}")
    return order[values.astype(np.int32)] if task.labels else values.astype(np.float32)


def _known_of_test(
    task: Task, labels: Sequence[Any], values: np.ndarray, names: Sequence[str] | None, origin: str
) -> np.ndarray | None:
    """The known labels of a test split; None if no label is known. A run does not depend on them."""
    order = _order(task, names)
    if np.all(values == HIDDEN) or order is None:
        return None
    valid = _valid(task, values)
    missing = np.array([label is None for label in labels]) | (values == HIDDEN)
    if unknown := np.count_nonzero(~valid & ~missing):
        logger.warning(
            "%s: %d of %d examples are not scored, because their labels are not known",
            *(origin, unknown, len(values)),
        )
    if not valid.any():
        return None
    if not task.labels:
        return np.where(valid, values, np.nan).astype(np.float32)
    return np.where(valid, order[np.where(valid, values, 0).astype(np.int32)], UNLABELLED)


def _valid(task: Task, values: np.ndarray) -> np.ndarray:
    return np.isin(values, np.arange(len(task.labels))) if task.labels else np.isfinite(values)


def _order(task: Task, names: Sequence[str] | None) -> np.ndarray | None:
    """The task's id of each class of the source, int32; None if the source has other classes than the task."""
    order = matching(task.labels, names or task.labels)
    return None if None in order or len(order) != len(task.labels) else np.array(order, np.int32)
